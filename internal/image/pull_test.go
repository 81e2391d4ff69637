package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/smolvm/smolvm/api"
)

// reg is a registry whose answers a test can change.
type reg struct {
	host   string
	change atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // true where it answered
	blobs  atomic.Int64                                                  // served layers and configs
}

func newReg(t *testing.T) *reg {
	t.Helper()
	r := &reg{}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if f := r.change.Load(); f != nil && (*f)(w, req) {
			return
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.blobs.Add(1)
		}
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	r.host = strings.TrimPrefix(s.URL, "http://")
	return r
}

func (r *reg) set(f func(http.ResponseWriter, *http.Request) bool) { r.change.Store(&f) }

// image makes an image of layers that are tars.
func testImage(t *testing.T, arch string, layers ...[]byte) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.Env = "linux", arch, []string{"A=b"}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func (r *reg) push(t *testing.T, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

func host() string { return platform("").Architecture }

func TestPull(t *testing.T) {
	r, im := newReg(t), open(t)
	ref := r.push(t, "app:1", testImage(t, host(), makeTar("a", "1", "b", "1"), makeTar("a", "2", ".wh.b", "")))
	var steps sync.Map
	i, err := im.Pull(t.Context(), ref, PullOptions{Progress: func(p Progress) { steps.Store(p.Step, p) }})
	if err != nil {
		t.Fatal(err)
	}
	if got := cat(t, i, "/a"); got != "2" || i.Config.Env[0] != "A=b" || len(i.Layers) != 2 {
		t.Errorf("/a is %q in %+v", got, i)
	}
	count := 0
	steps.Range(func(k, v any) bool {
		count++
		if p := v.(Progress); p.Done != p.Total {
			t.Errorf("step %v ended at %d of %d", k, p.Done, p.Total)
		}
		return true
	})
	if count != 4 { // manifest, two layers, unpacking
		t.Errorf("%d steps", count)
	}
	before := r.blobs.Load()
	if j, err := im.Pull(t.Context(), ref, PullOptions{}); err != nil || j.Digest != i.Digest || r.blobs.Load() != before {
		t.Errorf("second pull: %v, %d blobs", err, r.blobs.Load()-before)
	}
	if _, err := im.Pull(t.Context(), strings.Replace(ref, ":1", "@"+i.Digest, 1), PullOptions{}); err != nil {
		t.Errorf("by digest: %v", err)
	}
}

func TestPullAtOnce(t *testing.T) {
	r, im := newReg(t), open(t)
	ref := r.push(t, "app:1", testImage(t, host(), makeTar("a", "1"), makeTar("b", "2")))
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := im.Pull(t.Context(), ref, PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := r.blobs.Load(); n != 3 {
		t.Errorf("%d blobs were fetched; two layers and a config would do", n)
	}
}

func TestPullPlatform(t *testing.T) {
	r, im := newReg(t), open(t)
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"s390x", "arm64", "amd64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        testImage(t, arch, makeTar("arch", arch)),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	ref, err := name.ParseReference(r.host + "/multi")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"arm64", "amd64"} {
		i, err := im.Pull(t.Context(), ref.Name(), PullOptions{Platform: "linux/" + arch})
		if err != nil || cat(t, i, "/arch") != arch {
			t.Errorf("%s: %+v, %v", arch, i, err)
		}
	}
	_, err = im.Pull(t.Context(), ref.Name(), PullOptions{Platform: "linux/riscv64"})
	if e := api.AsError(err); e.Code != "wrong_platform" || !strings.Contains(e.Message, "linux/arm64") {
		t.Errorf("a platform that is not there: %+v", e)
	}
	single := r.push(t, "single", testImage(t, "s390x", makeTar("a", "1")))
	_, err = im.Pull(t.Context(), single, PullOptions{Platform: "linux/amd64"})
	if e := api.AsError(err); e.Code != "wrong_platform" {
		t.Errorf("an image for another platform: %+v", e)
	}
}

// TestPullBroken serves something wrong at each step; nothing may stay.
func TestPullBroken(t *testing.T) {
	r, im := newReg(t), open(t)
	ref := r.push(t, "app", testImage(t, host(), makeTar("a", strings.Repeat("1", 5000)), makeTar("b", "2")))
	blob := func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/blobs/") }
	manifest := func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/manifests/") }
	status := func(match func(*http.Request) bool, code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if match(req) {
				w.WriteHeader(code)
			}
			return match(req)
		}
	}
	body := func(match func(*http.Request) bool, b string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if match(req) {
				io.WriteString(w, b)
			}
			return match(req)
		}
	}
	for _, c := range []struct {
		name   string
		change func(http.ResponseWriter, *http.Request) bool
		want   error
	}{
		{"not found", status(manifest, 404), api.ErrNotFound},
		{"not allowed", status(manifest, 403), api.ErrDenied},
		{"no login", status(manifest, 401), api.ErrDenied},
		{"manifest is nonsense", body(manifest, "hello"), api.ErrInvalid},
		{"manifest is endless", body(manifest, strings.Repeat("x", maxManifest+10)), api.ErrInvalid},
		{"blob is missing", status(blob, 404), api.ErrNotFound},
		{"blob is nonsense", body(blob, "hello"), api.ErrUnavailable},
		{"blob is empty", body(blob, ""), api.ErrUnavailable},
	} {
		r.set(c.change)
		_, err := im.Pull(t.Context(), ref, PullOptions{})
		if err == nil || api.ClassOf(err) != api.ClassOf(c.want) {
			t.Errorf("%s: %v (%s); want %s", c.name, err, api.ClassOf(err), api.ClassOf(c.want))
		}
		if left := files(t, im); len(left) != 0 {
			t.Errorf("%s left %v", c.name, left)
		}
	}
	r.change.Store(nil)
	if _, err := im.Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Errorf("when all is well again: %v", err)
	}
	if _, err := im.Pull(t.Context(), "127.0.0.1:1/x", PullOptions{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("no registry: %v", err)
	}
	if _, err := im.Pull(t.Context(), "Bad Ref", PullOptions{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("bad reference: %v", err)
	}
}

// TestPullCorrupt flips a byte of one layer on its way.
func TestPullCorrupt(t *testing.T) {
	r, im := newReg(t), open(t)
	img := testImage(t, host(), makeTar("a", strings.Repeat("1", 5000)))
	ref := r.push(t, "app", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	r.set(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, digest.String()) {
			return false
		}
		w.Write(b)
		return true
	})
	if _, err := im.Pull(t.Context(), ref, PullOptions{}); err == nil {
		t.Error("a changed layer was taken")
	}
	if left := files(t, im); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPullCancelled ends the pull at its n-th step, for each n until it succeeds.
func TestPullCancelled(t *testing.T) {
	r := newReg(t)
	ref := r.push(t, "app", testImage(t, host(), makeTar("a", "1"), makeTar("b", "2")))
	for n := int64(1); ; n++ {
		im := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		var seen atomic.Int64
		_, err := im.Pull(ctx, ref, PullOptions{Progress: func(Progress) {
			if seen.Add(1) == n {
				cancel()
			}
		}})
		cancel()
		if seen.Load() < n {
			if err != nil {
				t.Fatalf("undisturbed: %v", err)
			}
			break
		}
		if err == nil {
			continue // cancelled when all was done
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at step %d: %v", n, err)
		}
		if left := files(t, im); len(left) != 0 {
			t.Errorf("cancelled at step %d, left: %v", n, left)
		}
	}
}

// TestGCSparesAPull collects while a pull is under way that counts on a layer
// that no image holds any more.
func TestGCSparesAPull(t *testing.T) {
	r, im := newReg(t), open(t)
	shared := makeTar("shared", "1")
	one := r.push(t, "one", testImage(t, host(), shared))
	two := r.push(t, "two", testImage(t, host(), shared, makeTar("own", "2")))
	if _, err := im.Pull(t.Context(), one, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := im.Remove(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	i, err := im.Pull(t.Context(), two, PullOptions{Progress: func(p Progress) {
		if p.Step != "unpack layers" {
			return
		}
		once.Do(func() {
			if n, err := im.GC(t.Context(), nil); err != nil || n == 0 {
				t.Errorf("gc freed %d bytes, %v", n, err)
			}
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(cat(t, i, "/shared"), cat(t, i, "/own")); got != "1 2" && got != "12" {
		t.Errorf("content %q", got)
	}
}
