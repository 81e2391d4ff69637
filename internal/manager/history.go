package manager

import (
	"context"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/store"
)

// Checkpoint records the sandbox as it is now. One that hibernates is woken.
func (h *Handle) Checkpoint(ctx context.Context, o api.Checkpoint) (step api.Step, err error) {
	err = h.awake(ctx, func() error { return h.ask(ctx, control.RouteCheckpoint, o, &step) })
	return step, err
}

// Rewind makes the sandbox what it was at a step. One that hibernates is woken.
func (h *Handle) Rewind(ctx context.Context, step int) error {
	return h.awake(ctx, func() error { return h.ask(ctx, control.RouteRewind, control.Rewind{Step: step}, nil) })
}

// History returns the steps of the sandbox.
func (h *Handle) History(context.Context) (api.History, error) {
	out := api.History{Head: -1, Steps: []api.Step{}}
	var rec control.Record
	if err := store.ReadJSON(h.dir().Spec(), &rec); err != nil {
		return out, notFound(h.id)
	}
	key, err := h.m.key()
	if err != nil {
		return out, err
	}
	if rec.Head != nil {
		out.Head = *rec.Head
	}
	manifests := map[int]*point.Manifest{}
	for _, path := range h.dir().Steps() {
		m, err := point.Read(key, path)
		if err != nil || m.Step == nil {
			continue // half written: it is no step
		}
		s := *m.Step
		manifests[s.Step] = m
		var parent *point.Manifest
		if s.Parent != nil {
			parent = manifests[*s.Parent]
		}
		s.Bytes = m.StepBytes(parent)
		out.Steps = append(out.Steps, s)
	}
	return out, nil
}
