package manager

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
)

var errTodo = api.Errorf(api.Internal, "not written yet")

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
