package manager

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/diff"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/undo"
)

// Diff lists the files that differ.
func (h *Handle) Diff(ctx context.Context, o api.DiffOptions) ([]api.Change, error) {
	d, err := h.compare(ctx, o)
	if err != nil {
		return nil, err
	}
	defer d.close()
	list := []api.Change{}
	for c, err := range d.changes {
		if err != nil {
			return nil, err
		}
		out := describeChange(c)
		if o.Patch && (c.Before.Type == guest.TypeFile || c.After.Type == guest.TypeFile) {
			text, err := diff.Unified(c, d.open)
			if err != nil {
				return nil, err
			}
			out.Patch, out.Binary = text.Unified, text.Binary
		}
		list = append(list, out)
	}
	return list, nil
}

func describeChange(c diff.Change) api.Change {
	f := c.After
	if c.What() == diff.Deleted {
		f = c.Before
	}
	return api.Change{Path: c.Path, What: string(c.What()), Type: f.Type, Size: f.Size, Mode: uint32(f.Mode)}
}

// ExportDiff writes the differences below a directory to w. It returns the paths
// that the form cannot carry.
func (h *Handle) ExportDiff(ctx context.Context, w io.Writer, dir string, f api.DiffFormat, o api.DiffOptions) ([]string, error) {
	d, err := h.compare(ctx, o)
	if err != nil {
		return nil, err
	}
	defer d.close()
	switch f {
	case api.DiffTar:
		return diff.Tar(w, dir, d.changes, d.open)
	case api.DiffPatch:
		return diff.Patch(w, dir, d.changes, d.open)
	}
	return nil, api.Errorf(api.Invalid, "export differences as %.80q: the form is not known", f).WithRecovery("Use tar or patch.")
}

// comparison is two states of a sandbox side by side. A state that the sandbox is
// not in itself is a fork of it, removed at the end.
type comparison struct {
	ctx     context.Context
	h       *Handle
	changes diff.Changes
	guests  [2]*Handle // by side; nil: the image
	forks   []*Handle
}

func (h *Handle) compare(ctx context.Context, o api.DiffOptions) (*comparison, error) {
	d := &comparison{ctx: ctx, h: h}
	var u undo.Stack
	defer u.Run()
	u.Add(d.close)
	var err error
	if o.From != nil {
		if d.guests[diff.Before], err = d.fork(*o.From); err != nil {
			return nil, err
		}
	}
	d.guests[diff.After] = h
	if o.To != nil {
		if d.guests[diff.After], err = d.fork(*o.To); err != nil {
			return nil, err
		}
	}
	before := func(func(diff.Entry, error) bool) {} // the image is a tree without entries
	if g := d.guests[diff.Before]; g != nil {
		before = guest.Client{Opener: g}.Tree(ctx, guest.Tree{})
	}
	after := guest.Client{Opener: d.guests[diff.After]}.Tree(ctx, guest.Tree{})
	changes := diff.Settle(diff.Compare(before, after), d.open)
	d.changes = func(yield func(diff.Change, error) bool) {
		for c, err := range changes {
			if err == nil && diff.Identity(c.Path) {
				continue
			}
			if !yield(c, err) {
				return
			}
		}
	}
	u.Success()
	return d, nil
}

func (d *comparison) fork(step int) (*Handle, error) {
	list, err := d.h.Fork(d.ctx, api.Fork{At: &step, Ephemeral: true})
	if err != nil {
		return nil, err
	}
	d.forks = append(d.forks, list...)
	return list[0], nil
}

// open reads a file of one state. Those of the image lie below each guest's own.
func (d *comparison) open(s diff.Side, path string) (io.ReadCloser, error) {
	r := guest.Read{Path: path}
	g := d.guests[s]
	if g == nil {
		g, r.Base = d.guests[diff.After], true
	}
	_, body, err := guest.Client{Opener: g}.ReadFile(d.ctx, r)
	return body, err
}

// close removes the forks.
func (d *comparison) close() {
	ctx, cancel := undo.Context(d.ctx)
	defer cancel()
	for _, f := range d.forks {
		f.Remove(ctx) // it is ephemeral: one that stays ends with this process
	}
	d.forks = nil
}
