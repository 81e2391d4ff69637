package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/store"
)

// Snapshots lists the snapshots, oldest first.
func (m *Manager) Snapshots(context.Context) ([]api.Snapshot, error) {
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(m.store.Snapshots())
	if err != nil {
		return nil, err
	}
	list := []api.Snapshot{}
	for _, e := range entries {
		p, err := point.Read(key, m.store.Snapshot(e.Name()).Manifest())
		if err != nil {
			continue // removed meanwhile, or not ours: it will not be used
		}
		list = append(list, p.Snapshot(e.Name()))
	}
	slices.SortFunc(list, func(a, b api.Snapshot) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// Snapshot describes a snapshot after all of it was verified.
func (m *Manager) Snapshot(_ context.Context, name string) (api.Snapshot, error) {
	p, err := m.openSnapshot(name)
	if err != nil {
		return api.Snapshot{}, err
	}
	return p.Snapshot(name), nil
}

func (m *Manager) openSnapshot(name string) (*point.Point, error) {
	if !refRE().MatchString(name) { // before it becomes part of a path
		return nil, point.NoSnapshot(name)
	}
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	dir := m.store.Snapshot(name)
	p, err := point.Open(key, dir.Manifest(), dir.Parts())
	if api.ClassOf(err) == api.NotFound {
		return nil, point.NoSnapshot(name)
	}
	return p, err
}

// RemoveSnapshot removes a snapshot, also one that was altered.
func (m *Manager) RemoveSnapshot(_ context.Context, name string) error {
	if !refRE().MatchString(name) {
		return point.NoSnapshot(name)
	}
	dir := m.store.Snapshot(name)
	if _, err := os.Stat(string(dir)); err != nil {
		return point.NoSnapshot(name)
	}
	return point.Remove(dir.Manifest(), string(dir))
}

// SaveSnapshot writes a snapshot as one file.
func (m *Manager) SaveSnapshot(_ context.Context, name string, w io.Writer) error {
	p, err := m.openSnapshot(name)
	if err != nil {
		return err
	}
	key, err := m.key()
	if err != nil {
		return err
	}
	return point.Save(key, p, name, w)
}

// LoadSnapshot takes in a snapshot's file.
func (m *Manager) LoadSnapshot(ctx context.Context, r io.Reader, o api.LoadSnapshot) (api.Snapshot, error) {
	if o.Name != "" {
		if err := m.freeSnapshot(o.Name); err != nil {
			return api.Snapshot{}, err
		}
	}
	key, err := m.key()
	if err != nil {
		return api.Snapshot{}, err
	}
	return m.newSnapshot(func(dir store.PointDir) (*point.Manifest, string, error) {
		p, name, err := point.Load(key, ctxReader{ctx, r}, dir, point.LoadOptions{Digest: o.Digest, DiskOnly: o.DiskOnly})
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // not what it made of the file
		}
		if o.Name != "" {
			name = o.Name
		} else if api.CheckName(name) != nil {
			name = "" // the file was not written by us
		}
		return p, name, err
	})
}

// ctxReader is a reader that ends with a context.
type ctxReader struct {
	ctx context.Context
	io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// freeSnapshot refuses a name that cannot be a snapshot's, or is one's already.
func (m *Manager) freeSnapshot(name string) error {
	if err := api.CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(string(m.store.Snapshot(name))); err == nil {
		return snapshotTaken(name)
	}
	return nil
}

func snapshotTaken(name string) error {
	return api.Errorf(api.Conflict, "name %q is taken by a snapshot", name).
		WithRecovery("Choose another name, or remove it with: smolvm snapshot rm %s", name)
}

// newSnapshot has a snapshot made in tmp/ and publishes it under the name that fill
// returns: the whole or nothing. An empty name is replaced by one that is free.
func (m *Manager) newSnapshot(fill func(store.PointDir) (*point.Manifest, string, error)) (api.Snapshot, error) {
	scratch, dir, err := m.newPoint()
	if err != nil {
		return api.Snapshot{}, err
	}
	defer scratch.Close()
	p, name, err := fill(dir)
	if err != nil {
		return api.Snapshot{}, err
	}
	for i := 1; ; i++ {
		as := name
		if as == "" {
			as = fmt.Sprintf("snap-%d", i)
		}
		err := os.Rename(string(dir), string(m.store.Snapshot(as)))
		switch taken := errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST); {
		case err == nil:
			return p.Snapshot(as), store.SyncDir(m.store.Snapshots())
		case taken && name == "":
			continue
		case taken:
			return api.Snapshot{}, snapshotTaken(name)
		default:
			return api.Snapshot{}, err
		}
	}
}

// newPoint makes a place in tmp/ for a point.
func (m *Manager) newPoint() (*store.Scratch, store.PointDir, error) {
	scratch, err := m.store.Scratch("point")
	if err != nil {
		return nil, "", err
	}
	dir := store.PointDir(scratch.Path("point"))
	if err := os.MkdirAll(dir.Parts(), 0o700); err != nil {
		scratch.Close()
		return nil, "", err
	}
	return scratch, dir, nil
}

// TakeSnapshot saves the sandbox under a name.
func (h *Handle) TakeSnapshot(ctx context.Context, o api.TakeSnapshot) (api.Snapshot, error) {
	if o.Name != "" {
		if err := h.m.freeSnapshot(o.Name); err != nil {
			return api.Snapshot{}, err
		}
	}
	key, err := h.m.key()
	if err != nil {
		return api.Snapshot{}, err
	}
	return h.m.newSnapshot(func(dir store.PointDir) (*point.Manifest, string, error) {
		if err := h.point(ctx, dir, control.Point{DiskOnly: o.DiskOnly}, new(control.Pointed)); err != nil {
			return nil, "", err
		}
		p, err := point.Read(key, dir.Manifest())
		return p, o.Name, err
	})
}

// point has the sandbox, whatever its state, saved into dir. Nothing is told to out
// of one that has no VM.
func (h *Handle) point(ctx context.Context, dir store.PointDir, p control.Point, out *control.Pointed) error {
	var err error
	if p.Dir, err = filepath.Rel(h.m.store.Root(), string(dir)); err != nil {
		return err
	}
	for wait := newPatience(); ; {
		err := control.NewClient(h.dir().Socket()).Call(ctx, control.RoutePoint, p, out)
		if !errors.Is(err, control.ErrNoSupervisor) {
			return err
		}
		if _, err := h.Info(ctx); err != nil {
			return err
		}
		if !store.Locked(h.dir().Lock()) {
			_, lifeline, err := h.m.spawn(ctx, p, "point", h.id)
			if err == nil {
				lifeline.Close() // it may have ended by now, which closes this too
				return nil
			}
			if api.AsError(err).Code != control.CodeSupervised {
				return err
			}
		}
		// It is coming up or going down.
		if err := wait.more(ctx); err != nil {
			return err
		}
	}
}
