package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// ociLayout is the content of the file that marks a directory in OCI layout.
const ociLayout = `{"imageLayoutVersion":"1.0.0"}`

// Save writes images as a tar in OCI layout, which Load and Import take, here
// or in another tool. The same images give the same bytes.
func (im *Images) Save(ctx context.Context, refs []string, w io.Writer, report progress.Func) error {
	if len(refs) == 0 {
		return api.Errorf(api.Invalid, "save images: none is named")
	}
	s := saver{im: im, w: tar.NewWriter(w), seen: map[string]bool{}, report: report}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, ref := range refs {
		d, err := s.image(ctx, ref)
		if err != nil {
			return api.Errorf(api.ClassOf(err), "save image %q: %w", ref, err)
		}
		index.Manifests = append(index.Manifests, d)
	}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	s.bytes("index.json", b)
	s.bytes("oci-layout", []byte(ociLayout))
	if s.err != nil {
		return api.Errorf(api.ClassOf(s.err), "save images: %w", s.err)
	}
	return s.w.Close()
}

type saver struct {
	im     *Images
	w      *tar.Writer
	seen   map[string]bool // blobs that are written
	report progress.Func
	err    error
}

// image writes an image's blobs and returns what the index says of it.
func (s *saver) image(ctx context.Context, ref string) (v1.Descriptor, error) {
	r, err := s.im.find(ref)
	if err != nil {
		return v1.Descriptor{}, err
	}
	digests := []string{r.Digest, r.ConfigDigest}
	for _, l := range r.Layers {
		digests = append(digests, l.Digest)
	}
	for _, d := range digests {
		if err := s.blob(ctx, d); err != nil {
			return v1.Descriptor{}, err
		}
	}
	st, err := os.Stat(s.im.path(blobsDir, hexOf(r.Digest)))
	if err != nil {
		return v1.Descriptor{}, err
	}
	sum, err := v1.NewHash(r.Digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	p := platform(r.Platform)
	d := v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: st.Size(), Digest: sum, Platform: &p}
	if raw, err := os.ReadFile(s.im.path(blobsDir, hexOf(r.Digest))); err == nil {
		if m, err := parseManifest(raw); err == nil && m.MediaType != "" {
			d.MediaType = m.MediaType // a pulled image may have Docker's
		}
	}
	if r.Ref != "" {
		d.Annotations = map[string]string{annotationName: r.Ref, annotationRefName: r.Ref}
	}
	return d, s.err
}

func (s *saver) blob(ctx context.Context, digest string) error {
	if s.seen[digest] || s.err != nil {
		return s.err
	}
	s.seen[digest] = true
	f, err := os.Open(s.im.path(blobsDir, hexOf(digest)))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	s.header("blobs/sha256/"+hexOf(digest), st.Size())
	if s.err == nil {
		step := "save " + hexOf(digest)[:minDigits]
		_, s.err = io.Copy(s.w, s.report.Reader(step, st.Size(), &ctxReader{ctx, f}))
	}
	return s.err
}

func (s *saver) bytes(name string, b []byte) {
	s.header(name, int64(len(b)))
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
}

func (s *saver) header(name string, size int64) {
	if s.err == nil {
		s.err = s.w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size})
	}
}
