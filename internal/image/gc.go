package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// PruneOptions say what Prune may take.
type PruneOptions struct {
	All    bool                     // also named images that no sandbox uses
	DryRun bool                     // only tell
	InUse  func(digest string) bool // images of sandboxes, by manifest digest; nil means none
}

// Pruned is what Prune took, or would take.
type Pruned struct {
	Images []string `json:"images"` // names; digests of images without one
	Bytes  int64    `json:"bytes"`
}

// UsedBy tells, for GC, the digests of the images that sandboxes and snapshots are made
// of.
func UsedBy(sandboxes []api.Sandbox, snapshots []api.Snapshot) func(digest string) bool {
	used := make(map[string]bool, len(sandboxes)+len(snapshots))
	for _, s := range sandboxes {
		used[s.ImageID] = true
	}
	for _, s := range snapshots {
		used[s.ImageID] = true
	}
	return func(digest string) bool { return used[digest] }
}

// GC removes everything that no name and no sandbox needs: images that lost
// their name, files of no image, and what dead pulls and builds left. inUse
// tells by manifest digest whether a sandbox uses an image; nil means none does.
// It returns the freed bytes.
func (im *Images) GC(ctx context.Context, inUse func(digest string) bool) (int64, error) {
	if _, err := im.s.SweepTmp(false); err != nil {
		return 0, api.Errorf(api.Internal, "clean up images: %w", err)
	}
	p, err := im.sweep(ctx, PruneOptions{InUse: inUse}, false)
	if err != nil {
		return 0, api.Errorf(api.Internal, "clean up images: %w", err)
	}
	return p.Bytes, nil
}

// Prune is GC that also empties the cache of build steps and, with All, removes
// named images that no sandbox uses.
func (im *Images) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	if !o.DryRun {
		if _, err := im.s.SweepTmp(false); err != nil {
			return Pruned{}, api.Errorf(api.Internal, "prune images: %w", err)
		}
	}
	p, err := im.sweep(ctx, o, true)
	if err != nil {
		return p, api.Errorf(api.Internal, "prune images: %w", err)
	}
	return p, nil
}

// sweeper removes what is not wanted, or only counts it.
type sweeper struct {
	im   *Images
	dry  bool
	out  Pruned
	keep map[string]map[string]bool // directory to names of files that stay
}

// sweep does the work of GC and Prune under the store's lock.
func (im *Images) sweep(ctx context.Context, o PruneOptions, cache bool) (Pruned, error) {
	l, err := im.lock()
	if err != nil {
		return Pruned{}, err
	}
	defer l.Unlock()
	s := sweeper{im: im, dry: o.DryRun, keep: map[string]map[string]bool{}}
	for _, d := range []string{blobsDir, rootfsDir, recordsDir, refsDir, cacheDir} {
		s.keep[d] = map[string]bool{}
	}
	if err := s.mark(o); err != nil {
		return Pruned{}, err
	}
	if !cache {
		if err := s.markCache(); err != nil {
			return Pruned{}, err
		}
	}
	for _, d := range []string{refsDir, recordsDir, cacheDir, rootfsDir, blobsDir} {
		if err := s.remove(ctx, d); err != nil {
			return s.out, err
		}
	}
	return s.out, s.removeLocks()
}

// mark notes which images stay, with their files.
func (s *sweeper) mark(o PruneOptions) error {
	refs, err := s.im.refs()
	if err != nil {
		return err
	}
	records, err := s.im.records()
	if err != nil {
		return err
	}
	used := func(digest string) bool { return o.InUse != nil && o.InUse(digest) }
	names := map[string][]string{}
	for _, r := range refs {
		names[r.Digest] = append(names[r.Digest], familiar(r.Name))
		if !o.All || used(r.Digest) {
			s.keep[refsDir][filepath.Base(s.im.refPath(r.Name))] = true
		}
	}
	for digest, r := range records {
		if used(digest) || (!o.All && len(names[digest]) > 0) {
			s.markRecord(r)
			continue
		}
		if len(names[digest]) == 0 {
			names[digest] = []string{digest}
		}
		s.out.Images = append(s.out.Images, names[digest]...)
	}
	return nil
}

func (s *sweeper) markRecord(r record) {
	s.keep[recordsDir][hexOf(r.Digest)+".json"] = true
	s.keep[rootfsDir][filepath.Base(s.im.rootfsPath(r.Layers))] = true
	s.keep[blobsDir][hexOf(r.Digest)] = true
	s.keep[blobsDir][hexOf(r.ConfigDigest)] = true
	for _, l := range r.Layers {
		s.keep[blobsDir][hexOf(l.Digest)] = true
	}
}

// markCache keeps the cached build steps whose layers are there, and the layers.
func (s *sweeper) markCache() error {
	entries, err := os.ReadDir(s.im.path(cacheDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		l, err := s.im.cached(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			continue
		}
		s.keep[cacheDir][e.Name()] = true
		s.keep[blobsDir][hexOf(l.Digest)] = true
	}
	return nil
}

func (s *sweeper) remove(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(s.im.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if s.keep[dir][e.Name()] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if info, err := e.Info(); err == nil {
			s.out.Bytes += info.Size()
		}
		if s.dry {
			continue
		}
		if err := os.Remove(s.im.path(dir, e.Name())); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// oldLock is the age from which a lock file that nobody holds is litter. One
// that is newer may be about to be locked.
const oldLock = time.Hour

func (s *sweeper) removeLocks() error {
	entries, err := os.ReadDir(s.im.path(locksDir))
	if err != nil || s.dry {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < oldLock {
			continue
		}
		s.im.removeLock(e.Name())
	}
	return nil
}
