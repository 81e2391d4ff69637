package manager

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
)

// TODO(issue 3): each of these gets its own file.

var errTodo = api.Errorf(api.Internal, "not written yet")

func (m *Manager) Templates(ctx context.Context) ([]api.Template, error) { return nil, errTodo }
func (m *Manager) BuildTemplate(ctx context.Context, spec api.Spec) (api.Template, error) {
	return api.Template{}, errTodo
}
func (m *Manager) RemoveTemplate(ctx context.Context, key string) error  { return errTodo }
func (m *Manager) Snapshots(ctx context.Context) ([]api.Snapshot, error) { return nil, errTodo }
func (m *Manager) Snapshot(ctx context.Context, n string) (api.Snapshot, error) {
	return api.Snapshot{}, errTodo
}
func (m *Manager) RemoveSnapshot(ctx context.Context, name string) error            { return errTodo }
func (m *Manager) SaveSnapshot(ctx context.Context, name string, w io.Writer) error { return errTodo }
func (m *Manager) LoadSnapshot(ctx context.Context, r io.Reader, o api.LoadSnapshot) (api.Snapshot, error) {
	return api.Snapshot{}, errTodo
}
func (m *Manager) SetPool(ctx context.Context, p api.Pool) (api.Pool, error) { return p, errTodo }
func (m *Manager) Pools(ctx context.Context) ([]api.Pool, error)             { return nil, errTodo }
func (m *Manager) DrainPools(ctx context.Context, image string) ([]api.Pool, error) {
	return nil, errTodo
}

func (h *Handle) TakeSnapshot(ctx context.Context, o api.TakeSnapshot) (api.Snapshot, error) {
	return api.Snapshot{}, errTodo
}
func (h *Handle) Fork(ctx context.Context, o api.Fork) ([]*Handle, error) { return nil, errTodo }
func (h *Handle) Checkpoint(ctx context.Context, o api.Checkpoint) (api.Step, error) {
	return api.Step{}, errTodo
}
func (h *Handle) History(ctx context.Context) (api.History, error) { return api.History{}, errTodo }
func (h *Handle) Rewind(ctx context.Context, step int) error       { return errTodo }

// DiffOptions is as smolvm.DiffOptions.
type DiffOptions struct {
	From, To *int
	Patch    bool
}

// DiffFormat is the form of an exported difference.
type DiffFormat string

// The forms; see package smolvm.
const (
	DiffTar   DiffFormat = "tar"
	DiffPatch DiffFormat = "patch"
)

func (h *Handle) Diff(ctx context.Context, o DiffOptions) ([]api.Change, error) { return nil, errTodo }
func (h *Handle) ExportDiff(ctx context.Context, w io.Writer, dir string, f DiffFormat, o DiffOptions) error {
	return errTodo
}
