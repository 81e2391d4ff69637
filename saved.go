package smolvm

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
)

// What can be saved and continued, in the words of the wire.
type (
	Template     = api.Template
	Snapshot     = api.Snapshot
	TakeSnapshot = api.TakeSnapshot
	LoadSnapshot = api.LoadSnapshot
	ForkOptions  = api.Fork
	Checkpoint   = api.Checkpoint
	Step         = api.Step
	History      = api.History
	Change       = api.Change
	Pool         = api.Pool
)

// Templates lists the templates, the one used last first.
func (c *Client) Templates(ctx context.Context) ([]Template, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	return b.Templates(ctx)
}

// BuildTemplate makes the template that sandboxes of spec's image and sizes
// continue, where it is not there yet, and returns it. Create does so by itself.
func (c *Client) BuildTemplate(ctx context.Context, spec Spec) (Template, error) {
	b, err := c.backend()
	if err != nil {
		return Template{}, err
	}
	return b.BuildTemplate(ctx, spec)
}

// RemoveTemplate removes a template by its key or a unique beginning of it.
// Sandboxes that were made of it do not notice. Class NotFound where there is none.
func (c *Client) RemoveTemplate(ctx context.Context, key string) error {
	b, err := c.backend()
	if err != nil {
		return err
	}
	return b.RemoveTemplate(ctx, key)
}

// Snapshots lists the snapshots, oldest first.
func (c *Client) Snapshots(ctx context.Context) ([]Snapshot, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	return b.Snapshots(ctx)
}

// GetSnapshot describes a snapshot. All of it is verified. Class NotFound where
// there is none, Denied with code "altered" where it is not as it was saved.
func (c *Client) GetSnapshot(ctx context.Context, name string) (Snapshot, error) {
	b, err := c.backend()
	if err != nil {
		return Snapshot{}, err
	}
	return b.Snapshot(ctx, name)
}

// RemoveSnapshot removes a snapshot. Sandboxes that were made of it do not notice.
func (c *Client) RemoveSnapshot(ctx context.Context, name string) error {
	b, err := c.backend()
	if err != nil {
		return err
	}
	return b.RemoveSnapshot(ctx, name)
}

// SaveSnapshot writes a snapshot to w as one file, to be taken in elsewhere by
// LoadSnapshot.
func (c *Client) SaveSnapshot(ctx context.Context, name string, w io.Writer) error {
	b, err := c.backend()
	if err != nil {
		return err
	}
	return b.SaveSnapshot(ctx, name, w)
}

// LoadSnapshot takes in what SaveSnapshot wrote. Nothing is left of a file that is
// refused: class Denied for one that was altered or comes from another
// installation without its digest, Conflict for a name that is taken. Whether this
// host can continue its memory a Create tells: class Unavailable with code
// "foreign_memory" where it cannot.
func (c *Client) LoadSnapshot(ctx context.Context, r io.Reader, o LoadSnapshot) (Snapshot, error) {
	b, err := c.backend()
	if err != nil {
		return Snapshot{}, err
	}
	return b.LoadSnapshot(ctx, r, o)
}

// SetPool keeps p.Size sandboxes of an image and sizes waiting, so that a Create
// of the same takes milliseconds. They take memory. It returns when the pool is
// known, not when it is full. Size zero drains the pool.
func (c *Client) SetPool(ctx context.Context, p Pool) (Pool, error) {
	b, err := c.backend()
	if err != nil {
		return Pool{}, err
	}
	return b.SetPool(ctx, p)
}

// Pools lists the pools.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	return b.Pools(ctx)
}

// DrainPools ends the waiting sandboxes of the pools of an image, or of all pools
// where image is empty, and returns when they are gone. It returns the pools.
func (c *Client) DrainPools(ctx context.Context, image string) ([]Pool, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	return b.DrainPools(ctx, image)
}

// TakeSnapshot saves the sandbox under a name. A running one goes on; it stands
// still only while memory is copied. A stopped one has only a disk to be saved.
// Class Conflict where the name is taken.
func (s *Sandbox) TakeSnapshot(ctx context.Context, o TakeSnapshot) (Snapshot, error) {
	return s.h.TakeSnapshot(ctx, o)
}

// Fork makes children of the sandbox: each has its memory, processes and disk as
// they are now, or as they were at a step, and an identity of its own. The sandbox
// goes on. All children come up or none.
func (s *Sandbox) Fork(ctx context.Context, o ForkOptions) ([]*Sandbox, error) {
	handles, err := s.h.Fork(ctx, o)
	if err != nil {
		return nil, err
	}
	children := make([]*Sandbox, len(handles))
	for i, h := range handles {
		children[i] = &Sandbox{h}
	}
	return children, nil
}

// Checkpoint records the sandbox as it is now as a step of its history. Class
// Exhausted where the history is full.
func (s *Sandbox) Checkpoint(ctx context.Context, o Checkpoint) (Step, error) {
	return s.h.Checkpoint(ctx, o)
}

// History returns the steps of the sandbox. It works in every state.
func (s *Sandbox) History(ctx context.Context) (History, error) { return s.h.History(ctx) }

// Rewind makes the sandbox what it was at a step: memory, processes and disk. What
// it is now is recorded as a step first. Commands under way end with an error.
func (s *Sandbox) Rewind(ctx context.Context, step int) error { return s.h.Rewind(ctx, step) }

// DiffOptions says what to compare.
type DiffOptions = api.DiffOptions

// Diff lists the files that differ, by path. It looks into forks of the steps,
// which are removed again.
func (s *Sandbox) Diff(ctx context.Context, o DiffOptions) ([]Change, error) {
	return s.h.Diff(ctx, o)
}

// DiffFormat is the form of an exported difference.
type DiffFormat = api.DiffFormat

const (
	// DiffTar is a tar archive of what was added and changed. What was deleted is an
	// empty entry whose name has the prefix ".wh.", as in image layers.
	DiffTar = api.DiffTar
	// DiffPatch is a patch for git apply.
	DiffPatch = api.DiffPatch
)

// ExportDiff writes the differences below the directory dir of the sandbox to w,
// with paths relative to it. It returns the paths that the format cannot carry, such
// as devices.
func (s *Sandbox) ExportDiff(ctx context.Context, w io.Writer, dir string, f DiffFormat, o DiffOptions) (skipped []string, err error) {
	return s.h.ExportDiff(ctx, w, dir, f, o)
}
