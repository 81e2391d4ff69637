package image

import (
	"context"
	"io"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/image/rootfs"
	"github.com/smolvm/smolvm/internal/store"
)

// Build is an image that is being built of layers, one step after the other.
// Nothing of it is in the store before Finish but the cache of its steps.
// It is for one goroutine; Close must be called.
type Build struct {
	w  *work
	im *Images
}

// NewBuild begins a build. A nil report is fine.
func (im *Images) NewBuild(l Limits, report progress.Func) (*Build, error) {
	w, err := im.work("build", l, report)
	if err != nil {
		return nil, err
	}
	return &Build{w, im}, nil
}

// Close removes what the build has not finished. A second call does nothing.
func (b *Build) Close() error { return b.w.Close() }

// Scratch returns the path of a file in the build's private directory.
func (b *Build) Scratch(name string) string { return b.w.Path(name) }

// Use makes an image that is here a part of the build: its layers may be built
// upon, and no clean-up takes them away.
func (b *Build) Use(ctx context.Context, ref string) (Image, error) {
	i, err := b.im.Resolve(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	for _, l := range i.Layers {
		if !b.w.have(blobsDir, hexOf(l.Digest)) {
			return Image{}, api.Errorf(api.Conflict, "image %q was removed just now", ref)
		}
	}
	return i, nil
}

// Cached returns the layer that a step with this key made before, if it did.
// Keys are hex hashes of all that goes into a step.
func (b *Build) Cached(key string) (Layer, bool) {
	l, err := b.im.cached(key)
	if err != nil || !b.w.have(blobsDir, hexOf(l.Digest)) {
		return Layer{}, false
	}
	return l, true
}

// Add stores an unpacked tar stream as the layer of a step and puts it into the
// cache under the step's key.
func (b *Build) Add(ctx context.Context, key string, tar io.Reader) (Layer, error) {
	l, err := b.w.addLayer(ctx, tar)
	if err != nil {
		return Layer{}, badStream(err)
	}
	lock, err := b.im.lock()
	if err != nil {
		return Layer{}, err
	}
	defer lock.Unlock()
	if err := b.w.move(blobsDir); err != nil {
		return Layer{}, err
	}
	return l, store.WriteJSON(b.im.path(cacheDir, key+".json"), l)
}

// Open opens the layers of the build as unpacked streams.
func (b *Build) Open(layers []Layer) []rootfs.Layer { return b.w.open(layers) }

// Image returns what the layers make as an image that a sandbox can start from.
// It has no digest and is gone with the build.
func (b *Build) Image(ctx context.Context, c Config, layers []Layer) (Image, error) {
	size, err := b.w.rootFS(ctx, layers)
	if err != nil {
		return Image{}, err
	}
	p := platform("")
	return Image{
		Platform: p.String(), RootFSBytes: size, Config: c, Layers: layers,
		RootFS: b.w.Path(rootfsDir, chainKey(layers)+".ext4"),
	}, nil
}

// Chain names a list of layers by their content.
func Chain(layers []Layer) string { return chainKey(layers) }

// Finish stores the image under a name.
func (b *Build) Finish(ctx context.Context, name string, c Config, layers []Layer) (Image, error) {
	canonical, err := canonicalTag(name)
	if err != nil {
		return Image{}, err
	}
	manifest, config, err := b.w.describe(v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Created: v1.Time{Time: time.Now().UTC()}, Config: c.ociConfig(),
	}, layers)
	if err != nil {
		return Image{}, err
	}
	return b.w.finish(ctx, manifest, config, canonical)
}
