package remote

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/smolvm/smolvm/api"
)

// number is a parameter that is there or zero.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// TakeSnapshot saves the sandbox under a name.
func (h *Handle) TakeSnapshot(ctx context.Context, o api.TakeSnapshot) (out api.Snapshot, err error) {
	err = h.post(ctx, "snapshots", o, &out)
	return out, err
}

// Fork makes children of the sandbox: all or none.
func (h *Handle) Fork(ctx context.Context, o api.Fork) ([]*Handle, error) {
	var l *lease
	if o.Ephemeral {
		var err error
		if l, err = h.c.newLease(ctx, max(o.N, 1)); err != nil {
			return nil, err
		}
	}
	return h.c.makeSandboxes(ctx, "create sandbox", h.path("fork"), o, l)
}

// Checkpoint records the sandbox as it is now.
func (h *Handle) Checkpoint(ctx context.Context, o api.Checkpoint) (out api.Step, err error) {
	err = h.post(ctx, "checkpoints", o, &out)
	return out, err
}

// History returns the steps of the sandbox.
func (h *Handle) History(ctx context.Context) (out api.History, err error) {
	err = h.get(ctx, "history", &out)
	return out, err
}

// Rewind makes the sandbox what it was at a step.
func (h *Handle) Rewind(ctx context.Context, step int) error {
	return h.post(ctx, "rewind", struct {
		Step int `json:"step"`
	}{step}, nil)
}

// Diff lists the files that differ.
func (h *Handle) Diff(ctx context.Context, o api.DiffOptions) ([]api.Change, error) {
	var out struct {
		Changes []api.Change `json:"changes"`
	}
	err := h.c.call(ctx, http.MethodGet, diffQuery(h.path("diff"), o, "patch", flag(o.Patch)), nil, &out)
	return out.Changes, err
}

func diffQuery(path string, o api.DiffOptions, more ...string) string {
	for name, step := range map[string]*int{"from": o.From, "to": o.To} {
		if step != nil {
			more = append(more, name, strconv.Itoa(*step))
		}
	}
	return query(path, more...)
}

// ExportDiff writes the differences below a directory to w. It returns the paths
// that the form cannot carry.
func (h *Handle) ExportDiff(ctx context.Context, w io.Writer, dir string, f api.DiffFormat, o api.DiffOptions) ([]string, error) {
	trailer, err := h.c.download(ctx, diffQuery(h.path("diff", "export"), o, "dir", dir, "format", string(f)), w)
	if err != nil {
		return nil, err
	}
	var skipped []string
	if text := trailer.Get(api.TrailerSkipped); text != "" {
		if err := json.Unmarshal([]byte(text), &skipped); err != nil {
			return nil, api.Errorf(api.Internal, "%s named what was skipped as %.200q: %w", h.c.peer.Name, text, err)
		}
	}
	return skipped, nil
}
