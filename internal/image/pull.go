package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// PullOptions say how an image is pulled. The zero value is fine.
type PullOptions struct {
	Platform string            // such as "linux/arm64"; empty means this host's
	Limits   Limits            // of the unpacked image
	Progress progress.Func     // may be nil
	HTTP     http.RoundTripper // nil means the default, with the environment's proxies
}

// parallel is how many layers are fetched at once; more only makes registries slow us down.
const parallel = 3

// Pull gets an image from its registry and names it as it was asked for. The
// login is taken from Docker's configuration. What is here already is not
// fetched again, and of several pulls of one reference at once one does the work.
func (im *Images) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	r, err := parseRef(ref)
	if err != nil {
		return Image{}, err
	}
	l, err := im.lockKey(ctx, "pull "+r.Name()+" "+o.Platform)
	if err != nil {
		return Image{}, api.Errorf(api.ClassOf(err), "pull image %q: %w", ref, err)
	}
	defer l.Unlock()
	i, err := im.pull(ctx, r, o)
	if err != nil {
		return Image{}, pullError(ref, err)
	}
	return i, nil
}

func (im *Images) pull(ctx context.Context, r name.Reference, o PullOptions) (Image, error) {
	o.Progress.Report(progress.Progress{Step: "read manifest", Total: 1})
	want := platform(o.Platform)
	img, err := fetchImage(ctx, r, want, o)
	if err != nil {
		return Image{}, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return Image{}, err
	}
	o.Progress.Report(progress.Progress{Step: "read manifest", Done: 1, Total: 1})
	if i, ok := im.adopt(ctx, digestOf(manifest), r.Name()); ok {
		return i, nil
	}
	w, err := im.work("pull", o.Limits, o.Progress)
	if err != nil {
		return Image{}, err
	}
	defer w.Close()
	return w.fetch(ctx, img, manifest, fetchTarget{r.Name(), want})
}

// fetchTarget is what a pulled image is to be.
type fetchTarget struct {
	name     string
	platform v1.Platform
}

// adopt names an image that is here whole, and reports whether it is.
func (im *Images) adopt(ctx context.Context, digest, name string) (Image, bool) {
	if _, err := im.Resolve(ctx, digest); err != nil {
		return Image{}, false
	}
	l, err := im.lock()
	if err != nil {
		return Image{}, false
	}
	defer l.Unlock()
	r, err := im.record(hexOf(digest)) // again: a GC may have come between
	if err != nil || im.setRef(name, digest) != nil {
		return Image{}, false
	}
	r.Ref = name
	return r.image(im), true
}

// fetchImage finds the image of a reference that fits the platform.
func fetchImage(ctx context.Context, r name.Reference, want v1.Platform, o PullOptions) (v1.Image, error) {
	rt := o.HTTP
	if rt == nil {
		rt = remote.DefaultTransport
	}
	d, err := remote.Get(r,
		remote.WithContext(ctx), remote.WithPlatform(want), remote.WithTransport(boundManifests{rt}),
		remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("smolvm"))
	if err != nil {
		return nil, err
	}
	if !d.MediaType.IsIndex() {
		return d.Image()
	}
	index, err := d.ImageIndex()
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, api.Errorf(api.Invalid, "read image index: %w", err)
	}
	var have []string
	for _, child := range m.Manifests {
		if child.Platform == nil || child.Platform.OS == "unknown" {
			continue // attestations
		}
		if fits(*child.Platform, want) {
			return index.Image(child.Digest)
		}
		have = append(have, child.Platform.String())
	}
	return nil, wrongPlatform(have, want)
}

// fetch gets config and layers of an image and finishes it.
func (w *work) fetch(ctx context.Context, img v1.Image, manifest []byte, t fetchTarget) (Image, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return Image{}, err
	}
	config, err := img.RawConfigFile() // its size was checked with the manifest's, its hash is here
	if err != nil {
		return Image{}, err
	}
	if err := checkPlatform(config, t.platform); err != nil {
		return Image{}, err
	}
	// The record would be refused after the download; say so before it.
	if _, err := newRecord(manifest, config); err != nil {
		return Image{}, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, d := range m.Layers {
		g.Go(func() error { return w.fetchLayer(gctx, img, d) })
	}
	if err := g.Wait(); err != nil {
		return Image{}, err
	}
	return w.finish(ctx, manifest, config, t.name)
}

func (w *work) fetchLayer(ctx context.Context, img v1.Image, d v1.Descriptor) error {
	if w.have(blobsDir, d.Digest.Hex) {
		return nil
	}
	l, err := img.LayerByDigest(d.Digest)
	if err != nil {
		return err
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	// The library's streams know only the context of the whole pull: closing is
	// what ends a read when a sister layer broke.
	stop := context.AfterFunc(ctx, func() { rc.Close() })
	defer stop()
	defer rc.Close()
	r := w.progress.Reader("layer "+short(d.Digest), d.Size, &ctxReader{ctx, rc})
	_, _, err = w.addBlob(blob{d.Digest.String(), d.Size}, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// boundManifests bounds the size of manifests, which the registry library reads
// whole into memory. Blobs are bounded by the sizes that manifests state.
type boundManifests struct{ next http.RoundTripper }

// RoundTrip does one request.
func (b boundManifests) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(req)
	if err == nil && !strings.Contains(req.URL.Path, "/blobs/") {
		resp.Body = &boundBody{resp.Body, maxManifest}
	}
	return resp, err
}

type boundBody struct {
	io.ReadCloser
	left int64
}

func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, api.Errorf(api.Invalid, "the registry's answer is larger than %d bytes", maxManifest)
	}
	return n, err
}

// pullError gives an error of the registry or the way there its class.
func pullError(ref string, err error) error {
	var t *transport.Error
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return api.Errorf(e.Class, "pull image %q: %w", ref, err).WithCode(e.Code).WithRecovery("%s", e.Recovery)
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.Timeout, "pull image %q: %w", ref, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("pull image %q: %w", ref, err)
	case errors.As(err, &t):
		return registryError(ref, t)
	}
	return api.Errorf(api.Unavailable, "pull image %q: %w", ref, err).
		WithRecovery("Check the network and the image's name.")
}

func registryError(ref string, t *transport.Error) error {
	switch t.StatusCode {
	case http.StatusNotFound:
		return api.Errorf(api.NotFound, "pull image %q: %w", ref, t).WithRecovery("Check the image's name and tag.")
	case http.StatusUnauthorized, http.StatusForbidden:
		return api.Errorf(api.Denied, "pull image %q: %w", ref, t).
			WithRecovery("Check the name, or log in with: docker login REGISTRY.")
	case http.StatusTooManyRequests:
		return api.Errorf(api.Exhausted, "pull image %q: %w", ref, t).WithRecovery("Wait, or log in for a higher limit.")
	}
	return api.Errorf(api.Unavailable, "pull image %q: %w", ref, t).WithRecovery("Try again later.")
}
