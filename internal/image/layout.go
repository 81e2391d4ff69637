package image

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/decompress"
)

// Annotations that give an image in an archive its name: containerd's has the
// whole one, OCI's often only the tag.
const (
	annotationName    = "io.containerd.image.name"
	annotationRefName = "org.opencontainers.image.ref.name"
)

// maxDepth is how deep indexes may hold indexes; tools nest once.
const maxDepth = 4

// maxImages bounds the images of one archive.
const maxImages = 1000

// found is an image of an archive.
type found struct {
	desc v1.Descriptor
	name string
}

// platform parses "os/arch[/variant]"; empty means this host's.
func platform(s string) v1.Platform {
	if s == "" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	parts := append(strings.SplitN(s, "/", 3), "", "")
	return v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

// fits reports whether an image of one platform serves one who wants another.
func fits(have, want v1.Platform) bool {
	return have.OS == want.OS && have.Architecture == want.Architecture &&
		(want.Variant == "" || have.Variant == want.Variant)
}

// loadOCI takes all images of an archive in OCI layout that fit the platform.
func (w *work) loadOCI(ctx context.Context, a archive, o ImportOptions) ([]Image, error) {
	all, err := findImages(a, platform(o.Platform))
	if err != nil {
		return nil, err
	}
	if err := nameImages(all, o.Name); err != nil {
		return nil, err
	}
	var out []Image
	for _, f := range all {
		i, err := w.loadManifest(ctx, a, f, platform(o.Platform))
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// findImages lists the images of a layout that fit a platform.
func findImages(a archive, want v1.Platform) ([]found, error) {
	index, err := a.read("index.json", maxManifest)
	if err != nil {
		return nil, err
	}
	var out []found
	var others []string
	if err := walkIndex(a, index, found{}, 0, func(f found) {
		if p := f.desc.Platform; p != nil && !fits(*p, want) {
			others = append(others, p.String())
			return
		}
		out = append(out, f)
	}); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, wrongPlatform(others, want)
	}
	if len(out) > maxImages {
		return nil, api.Errorf(api.Invalid, "archive holds %d images, more than %d", len(out), maxImages)
	}
	return out, nil
}

func wrongPlatform(have []string, want v1.Platform) error {
	if len(have) == 0 {
		return api.Errorf(api.Invalid, "there is no image in it")
	}
	return api.Errorf(api.Invalid, "image is for %s, not for %s", strings.Join(have, ", "), want.String()).
		WithCode("wrong_platform").WithRecovery("Use an image that is built for %s.", want.String())
}

func walkIndex(a archive, index []byte, parent found, depth int, f func(found)) error {
	if depth == maxDepth {
		return api.Errorf(api.Invalid, "indexes are nested deeper than %d", maxDepth)
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return api.Errorf(api.Invalid, "read image index: %w", err)
	}
	for _, d := range m.Manifests {
		child := found{d, nameOf(d)}
		if child.name == "" {
			child.name = parent.name
		}
		if !d.MediaType.IsIndex() {
			f(child)
			continue
		}
		b, err := readChecked(a, d, maxManifest)
		if err != nil {
			return err
		}
		if err := walkIndex(a, b, child, depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

func nameOf(d v1.Descriptor) string {
	if n := d.Annotations[annotationName]; n != "" {
		return n
	}
	if n := d.Annotations[annotationRefName]; strings.ContainsAny(n, "/:") {
		return n
	}
	return ""
}

// nameImages gives the images of an archive their canonical names.
func nameImages(all []found, name string) error {
	if name != "" {
		if len(all) != 1 {
			return api.Errorf(api.Invalid, "archive holds %d images; one name is not enough", len(all)).
				WithRecovery("Take all of them under their own names with: smolvm image load.")
		}
		all[0].name = name
	}
	for i := range all {
		if all[i].name == "" {
			return api.Errorf(api.Invalid, "the image has no name in the archive").
				WithRecovery("Give it one with --name.")
		}
		n, err := canonicalTag(all[i].name)
		if err != nil {
			return err
		}
		all[i].name = n
	}
	return nil
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

// readChecked reads a small blob of a layout and compares its digest.
func readChecked(a archive, d v1.Descriptor, most int64) ([]byte, error) {
	b, err := a.read(blobPath(d.Digest), most)
	if err != nil {
		return nil, err
	}
	if got := digestOf(b); got != d.Digest.String() {
		return nil, api.Errorf(api.Invalid, "blob has hash %s, not %s", got, d.Digest)
	}
	return b, nil
}

func (w *work) loadManifest(ctx context.Context, a archive, f found, want v1.Platform) (Image, error) {
	manifest, err := readChecked(a, f.desc, maxManifest)
	if err != nil {
		return Image{}, err
	}
	m, err := parseManifest(manifest)
	if err != nil {
		return Image{}, err
	}
	config, err := readChecked(a, m.Config, maxConfig)
	if err != nil {
		return Image{}, err
	}
	if err := checkPlatform(config, want); err != nil {
		return Image{}, err
	}
	for _, l := range m.Layers {
		if err := w.copyBlob(ctx, a, l); err != nil {
			return Image{}, err
		}
	}
	return w.finish(ctx, manifest, config, f.name)
}

func (w *work) copyBlob(ctx context.Context, a archive, d v1.Descriptor) error {
	if w.have(blobsDir, d.Digest.Hex) {
		return nil
	}
	r, size, err := a.open(blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer r.Close()
	_, _, err = w.addBlob(blob{d.Digest.String(), d.Size}, w.progress.Reader("read layer "+short(d.Digest), size, &ctxReader{ctx, r}))
	return err
}

// short is what of a digest tables and progress show.
func short(h v1.Hash) string { return h.Hex[:min(minDigits, len(h.Hex))] }

// checkPlatform refuses an image whose programs would not run.
func checkPlatform(config []byte, want v1.Platform) error {
	c, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return api.Errorf(api.Invalid, "read image config: %w", err)
	}
	if have := (v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}); !fits(have, want) {
		return wrongPlatform([]string{have.String()}, want)
	}
	return nil
}

// dockerImage is one element of docker save's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerManifest reads manifest.json where the archive is docker save's.
func dockerManifest(a archive) ([]dockerImage, bool) {
	if !a.has("manifest.json") {
		return nil, false
	}
	b, err := a.read("manifest.json", maxManifest)
	if err != nil {
		return nil, false
	}
	var list []dockerImage
	if err := json.Unmarshal(b, &list); err != nil || len(list) == 0 || list[0].Config == "" {
		return nil, false
	}
	return list, true
}

func (w *work) loadDocker(ctx context.Context, a archive, list []dockerImage, o ImportOptions) ([]Image, error) {
	if o.Name != "" && len(list) != 1 {
		return nil, nameImages(make([]found, len(list)), o.Name)
	}
	if len(list) > maxImages {
		return nil, api.Errorf(api.Invalid, "archive holds %d images, more than %d", len(list), maxImages)
	}
	var out []Image
	for _, d := range list {
		names := d.RepoTags
		if o.Name != "" {
			names = []string{o.Name}
		}
		if len(names) == 0 {
			return nil, nameImages(make([]found, 1), "")
		}
		i, err := w.loadDockerImage(ctx, a, d, names, platform(o.Platform))
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// loadDockerImage stores an image of docker save under an OCI manifest, for it
// has none of its own.
func (w *work) loadDockerImage(ctx context.Context, a archive, d dockerImage, names []string, want v1.Platform) (Image, error) {
	config, err := a.read(d.Config, maxConfig)
	if err != nil {
		return Image{}, err
	}
	if err := checkPlatform(config, want); err != nil {
		return Image{}, err
	}
	if len(d.Layers) > maxLayers {
		return Image{}, api.Errorf(api.Invalid, "image has %d layers, more than %d", len(d.Layers), maxLayers)
	}
	sum, err := v1.NewHash(digestOf(config))
	if err != nil {
		return Image{}, err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: sum},
	}
	for _, l := range d.Layers {
		desc, err := w.dockerLayer(ctx, a, l)
		if err != nil {
			return Image{}, err
		}
		m.Layers = append(m.Layers, desc)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return Image{}, err
	}
	return w.finishAs(ctx, manifest, config, names)
}

func (w *work) dockerLayer(ctx context.Context, a archive, name string) (v1.Descriptor, error) {
	r, size, err := a.open(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer r.Close()
	kind, err := layerType(a, name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	digest, size, err := w.addBlob(blob{size: size}, w.progress.Reader("read layer", size, &ctxReader{ctx, r}))
	if err != nil {
		return v1.Descriptor{}, err
	}
	return descriptor(Layer{Digest: digest, Size: size, MediaType: string(kind)})
}

// layerType returns the media type of a layer by how it is compressed.
func layerType(a archive, name string) (types.MediaType, error) {
	r, _, err := a.open(name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	rc, format, err := decompress.NewReader(r)
	if err != nil {
		return "", api.Errorf(api.Invalid, "%w", err)
	}
	defer rc.Close()
	switch format {
	case decompress.None:
		return types.OCIUncompressedLayer, nil
	case decompress.Gzip:
		return types.OCILayer, nil
	case decompress.Zstd:
		return types.OCILayerZStd, nil
	}
	return "", api.Errorf(api.Invalid, "layer %.200q is compressed by %s", name, format)
}

// finishAs is finish under several names.
func (w *work) finishAs(ctx context.Context, manifest, config []byte, names []string) (Image, error) {
	var i Image
	for _, n := range names {
		canonical, err := canonicalTag(n)
		if err != nil {
			return Image{}, err
		}
		if i, err = w.finish(ctx, manifest, config, canonical); err != nil {
			return Image{}, err
		}
	}
	return i, nil
}
