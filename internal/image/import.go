package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/decompress"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/image/rootfs"
)

// ImportOptions say how an image is taken from a file.
type ImportOptions struct {
	// Name is what the image will be called. Required for a plain root file
	// system; empty means the names that an archive holds.
	Name     string
	Platform string    // such as "linux/arm64"; empty means this host's
	Config   Config    // of a plain root file system; what is empty there gets a default
	Created  time.Time // of a plain root file system; zero says nothing, which keeps the digest the same
	Limits   Limits
	Progress progress.Func // may be nil
}

// Import takes an image from a path: a directory in OCI layout, a tar of one, a
// tar from docker save, or a tar of a root file system, each tar plain or
// compressed by gzip, zstd, xz or bzip2. Class Invalid where it is none of these
// or holds several images.
func (im *Images) Import(ctx context.Context, path string, o ImportOptions) (Image, error) {
	images, err := im.load(ctx, path, nil, o)
	if err != nil {
		return Image{}, api.Errorf(api.ClassOf(err), "import %q: %w", path, err)
	}
	return images[0], nil
}

// ImportReader is Import of a tar stream.
func (im *Images) ImportReader(ctx context.Context, r io.Reader, o ImportOptions) (Image, error) {
	images, err := im.load(ctx, "", r, o)
	if err != nil {
		return Image{}, api.Errorf(api.ClassOf(err), "import image: %w", err)
	}
	return images[0], nil
}

// Load takes all images of an archive, under the names that they have in it.
func (im *Images) Load(ctx context.Context, r io.Reader, o ImportOptions) ([]Image, error) {
	o.Name = ""
	images, err := im.load(ctx, "", r, o)
	if err != nil {
		return nil, api.Errorf(api.ClassOf(err), "load images: %w", err)
	}
	return images, nil
}

func (im *Images) load(ctx context.Context, path string, r io.Reader, o ImportOptions) ([]Image, error) {
	if o.Name != "" {
		if _, err := canonicalTag(o.Name); err != nil {
			return nil, err
		}
	}
	w, err := im.work("import", o.Limits, o.Progress)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if r == nil {
		st, err := os.Stat(path)
		if err != nil {
			return nil, api.Errorf(api.NotFound, "%w", err)
		}
		if st.IsDir() {
			return w.loadDir(ctx, path, o)
		}
	}
	spool, err := w.spool(ctx, path, r)
	if err != nil {
		return nil, err
	}
	defer spool.Close()
	a, err := indexTar(spool)
	if err != nil {
		return nil, err
	}
	return w.loadTar(ctx, spool, a, o)
}

func (w *work) loadDir(ctx context.Context, path string, o ImportOptions) ([]Image, error) {
	a, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer a.close()
	if !a.has("oci-layout") || !a.has("index.json") {
		return nil, api.Errorf(api.Invalid, "the directory is not in OCI layout").
			WithRecovery("Give a tar of a root file system, or a directory with oci-layout and index.json.")
	}
	return w.loadOCI(ctx, a, o)
}

func (w *work) loadTar(ctx context.Context, spool *os.File, a archive, o ImportOptions) ([]Image, error) {
	if a.has("oci-layout") && a.has("index.json") {
		return w.loadOCI(ctx, a, o)
	}
	if list, ok := dockerManifest(a); ok {
		return w.loadDocker(ctx, a, list, o)
	}
	i, err := w.loadRoot(ctx, spool, o)
	return []Image{i}, err
}

// spool returns the archive as an unpacked file that can be read at any place.
// A plain file is used where it is.
func (w *work) spool(ctx context.Context, path string, r io.Reader) (*os.File, error) {
	if r == nil {
		f, err := os.Open(path)
		if err != nil {
			return nil, api.Errorf(api.NotFound, "%w", err)
		}
		if plainFile(f) {
			return f, nil
		}
		defer f.Close()
		r = f
	}
	rc, _, err := decompress.NewReader(w.progress.Reader("read archive", 0, &ctxReader{ctx, r}))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%w", err)
	}
	defer rc.Close()
	f, err := os.OpenFile(w.Path("spool"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	most := w.maxBytes()
	n, err := io.Copy(f, io.LimitReader(rc, most+1))
	if err == nil && n > most {
		err = api.Errorf(api.Exhausted, "more than %d bytes unpacked", most)
	}
	if err != nil {
		f.Close()
		return nil, badStream(err)
	}
	return f, nil
}

// plainFile reports whether a file can be read at any place and is not compressed.
func plainFile(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	rc, format, err := decompress.NewReader(f)
	if err == nil {
		rc.Close()
	}
	_, serr := f.Seek(0, io.SeekStart)
	return err == nil && serr == nil && format == decompress.None
}

// loadRoot makes a one-layer image of a tar of a root file system.
func (w *work) loadRoot(ctx context.Context, tar *os.File, o ImportOptions) (Image, error) {
	name, err := canonicalTag(o.Name)
	if o.Name == "" {
		err = api.Errorf(api.Invalid, "a root file system needs a name")
	}
	if err != nil {
		return Image{}, err
	}
	l, err := w.addRootLayer(ctx, tar)
	if err != nil {
		return Image{}, err
	}
	manifest, config, err := w.describe(rootConfig(o), []Layer{l})
	if err != nil {
		return Image{}, err
	}
	return w.finish(ctx, manifest, config, name)
}

func (w *work) addRootLayer(ctx context.Context, tar *os.File) (Layer, error) {
	st, err := tar.Stat()
	if err != nil {
		return Layer{}, err
	}
	if _, err := tar.Seek(0, io.SeekStart); err != nil {
		return Layer{}, err
	}
	return w.addLayer(ctx, w.progress.Reader("store layer", st.Size(), tar))
}

// addLayer stores an unpacked tar stream as a layer. It is compressed by zstd at
// its fastest: half the disk for little time.
func (w *work) addLayer(ctx context.Context, tar io.Reader) (Layer, error) {
	pr, pw := io.Pipe()
	h := sha256.New()
	done := make(chan error, 1)
	go func() {
		z, err := zstd.NewWriter(pw, zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err == nil {
			_, err = io.Copy(z, io.TeeReader(&ctxReader{ctx, io.LimitReader(tar, w.maxBytes())}, h))
			err = errors.Join(err, z.Close())
		}
		pw.CloseWithError(err)
		done <- err
	}()
	digest, size, err := w.addBlob(blob{size: w.maxBytes()}, pr)
	pr.CloseWithError(io.ErrClosedPipe)
	// The source's error is the cause where both ended with one.
	if serr := <-done; serr != nil && !errors.Is(serr, io.ErrClosedPipe) {
		err = serr
	}
	if err != nil {
		return Layer{}, err
	}
	return Layer{digest, "sha256:" + hex.EncodeToString(h.Sum(nil)), size, string(types.OCILayerZStd)}, nil
}

// describe writes the config and the manifest of an image.
func (w *work) describe(c v1.ConfigFile, layers []Layer) (manifest, config []byte, err error) {
	c.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	for _, l := range layers {
		d, err := descriptor(l)
		if err != nil {
			return nil, nil, err
		}
		diff, err := v1.NewHash(l.DiffID)
		if err != nil {
			return nil, nil, err
		}
		m.Layers = append(m.Layers, d)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, diff)
	}
	if config, err = json.Marshal(c); err != nil {
		return nil, nil, err
	}
	sum, err := v1.NewHash(digestOf(config))
	if err != nil {
		return nil, nil, err
	}
	m.Config = v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: sum}
	manifest, err = json.Marshal(m)
	return manifest, config, err
}

func descriptor(l Layer) (v1.Descriptor, error) {
	d, err := v1.NewHash(l.Digest)
	return v1.Descriptor{MediaType: types.MediaType(l.MediaType), Size: l.Size, Digest: d}, err
}

// defaultPath is PATH in an image that does not set it.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func rootConfig(o ImportOptions) v1.ConfigFile {
	p := platform(o.Platform)
	c := o.Config
	if len(c.Env) == 0 {
		c.Env = []string{defaultPath}
	}
	if len(c.Entrypoint) == 0 && len(c.Cmd) == 0 {
		c.Cmd = []string{"/bin/sh"}
	}
	return v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		Created: v1.Time{Time: o.Created.UTC()}, Config: c.ociConfig(),
	}
}

// maxBytes is the most that one stream may unpack to.
func (w *work) maxBytes() int64 {
	if w.limits.Bytes != 0 {
		return w.limits.Bytes
	}
	return rootfs.DefaultBytes
}

// ctxReader is a reader that ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// badStream gives an error about a stranger's stream its class.
func badStream(err error) error {
	var e *api.Error
	var p *os.PathError
	if errors.As(err, &e) || errors.As(err, &p) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return api.Errorf(api.Invalid, "%w", err)
}
