// Package image keeps the images that sandboxes start from: it pulls, imports,
// builds and removes them, and makes of each one read-only ext4 file that all
// its sandboxes share.
//
//	im, err := image.Open(s)
//	i, err := im.Resolve(ctx, "base")                        // what is here already
//	i, err = im.Pull(ctx, "python:3.12", image.PullOptions{}) // from a registry
//	i, err = im.Import(ctx, "rootfs.tar.gz", image.ImportOptions{Name: "mine"})
//
// Everything is named by the hash of its content, and the hash is compared while
// it is written. What is half made lives in the state directory's tmp and moves
// into place at the end: a pull that fails or is killed leaves nothing that GC
// does not remove. Kernels, disks and the first file system of a guest are in
// the packages below this one.
package image

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/image/rootfs"
	"github.com/smolvm/smolvm/internal/store"
)

// Progress is how far a step is.
type Progress = progress.Progress

// Limits bound what an image can make of us; see rootfs.Limits for the defaults.
type Limits = rootfs.Limits

// Image is an image that is here.
type Image struct {
	Ref          string    `json:"ref,omitempty"` // name for people; empty for an image without one
	Digest       string    `json:"digest"`        // of the manifest, "sha256:..."
	ConfigDigest string    `json:"config_digest"`
	Platform     string    `json:"platform"` // such as "linux/amd64"
	Created      time.Time `json:"created"`  // as the image says; zero where it does not
	SizeBytes    int64     `json:"size_bytes"`
	RootFSBytes  int64     `json:"rootfs_bytes"`
	Config       Config    `json:"config"`
	Layers       []Layer   `json:"layers"`

	RootFS string `json:"-"` // path of the read-only ext4 file
}

// Config is how a program in the image is run.
type Config struct {
	Env          []string          `json:"env,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	User         string            `json:"user,omitempty"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Shell        []string          `json:"shell,omitempty"`
	StopSignal   string            `json:"stop_signal,omitempty"`
	ExposedPorts []string          `json:"exposed_ports,omitempty"` // sorted
	Volumes      []string          `json:"volumes,omitempty"`       // sorted
}

// Layer is one layer of an image.
type Layer struct {
	Digest    string `json:"digest"`  // of the stored blob
	DiffID    string `json:"diff_id"` // of its unpacked tar
	Size      int64  `json:"size_bytes"`
	MediaType string `json:"media_type"`
}

// Images is the opened image store. It holds no descriptors and may be used
// from any goroutine and many processes at once.
type Images struct{ s store.Store }

// Open opens the image store of a state directory.
func Open(s store.Store) (*Images, error) {
	im := &Images{s}
	for _, d := range []string{blobsDir, recordsDir, refsDir, rootfsDir, cacheDir, locksDir} {
		if err := os.MkdirAll(im.path(d), 0o700); err != nil {
			return nil, api.Errorf(api.Unavailable, "open image store: %w", err)
		}
	}
	return im, nil
}

// Directories of the image store.
const (
	blobsDir   = "blobs"   // manifests, configs and layers, by digest
	recordsDir = "records" // what is known of each image, by its manifest's digest
	refsDir    = "refs"    // names
	rootfsDir  = "rootfs"  // ext4 files, by their layers
	cacheDir   = "cache"   // layers of build steps, by what went into the step
	locksDir   = "locks"   // held while a name is pulled
	lockName   = "lock"    // held for the moment in which things move into place or are removed
)

func (im *Images) path(names ...string) string {
	return filepath.Join(append([]string{im.s.Images()}, names...)...)
}

// Resolve returns an image that is here by name ("python:3.12"), by digest
// ("sha256:...") or by the beginning of its digest (12 digits or more). Class
// NotFound where there is none; Conflict where a beginning fits several.
func (im *Images) Resolve(ctx context.Context, ref string) (Image, error) {
	r, err := im.find(ref)
	if err != nil {
		return Image{}, api.Errorf(api.ClassOf(err), "find image %q: %w", ref, err).
			WithRecovery("Get it with: smolvm image pull %s. See what is here with: smolvm image ls.", ref)
	}
	i := r.image(im)
	if _, err := os.Stat(i.RootFS); err == nil {
		return i, nil
	}
	// Left out by an older smolvm, or removed by hand: the layers are still here.
	if err := im.restoreRootFS(ctx, r); err != nil {
		return Image{}, api.Errorf(api.ClassOf(err), "unpack image %q: %w", ref, err)
	}
	return i, nil
}

// List returns all images with their names, in order of name; images without a
// name come last. An image with several names is there several times.
func (im *Images) List(_ context.Context) ([]Image, error) {
	refs, err := im.refs()
	if err != nil {
		return nil, api.Errorf(api.Internal, "list images: %w", err)
	}
	records, err := im.records()
	if err != nil {
		return nil, api.Errorf(api.Internal, "list images: %w", err)
	}
	var out []Image
	named := map[string]bool{}
	for _, ref := range refs {
		r, ok := records[ref.Digest]
		if !ok {
			continue
		}
		named[ref.Digest] = true
		i := r.image(im)
		i.Ref = familiar(ref.Name)
		out = append(out, i)
	}
	for digest, r := range records {
		if !named[digest] {
			out = append(out, r.image(im))
		}
	}
	slices.SortFunc(out, func(a, b Image) int {
		if (a.Ref == "") != (b.Ref == "") {
			return strings.Compare(b.Ref, a.Ref) // no name: last
		}
		return strings.Compare(a.Ref+a.Digest, b.Ref+b.Digest)
	})
	return out, nil
}

// Remove takes a name away, or by digest all names of an image. The image's
// files stay until GC finds that no name and no sandbox needs them.
func (im *Images) Remove(_ context.Context, ref string) error {
	r, err := im.find(ref)
	if err != nil {
		return api.Errorf(api.ClassOf(err), "remove image %q: %w", ref, err)
	}
	l, err := im.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	if r.Ref != "" {
		return os.Remove(im.refPath(r.Ref))
	}
	refs, err := im.refs()
	if err != nil {
		return err
	}
	for _, x := range refs {
		if x.Digest != r.Digest {
			continue
		}
		if err := os.Remove(im.refPath(x.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Tag gives an image another name.
func (im *Images) Tag(_ context.Context, ref, name string) error {
	canonical, err := canonicalTag(name)
	if err != nil {
		return err
	}
	l, err := im.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	r, err := im.find(ref)
	if err != nil {
		return api.Errorf(api.ClassOf(err), "tag image %q: %w", ref, err)
	}
	return im.setRef(canonical, r.Digest)
}

// lock waits for the store's lock. It is held for moments only.
func (im *Images) lock() (*store.Lock, error) {
	l, err := store.WaitLock(im.path(lockName))
	if err != nil {
		return nil, api.Errorf(api.Internal, "lock image store: %w", err)
	}
	return l, nil
}
