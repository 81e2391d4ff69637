package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
)

// Fork makes children of the sandbox: all or none.
func (h *Handle) Fork(ctx context.Context, o api.Fork) ([]*Handle, error) {
	if o.N == 0 {
		o.N = 1
	}
	if o.N < 0 || o.N > api.MaxFork {
		return nil, api.Errorf(api.Invalid, "fork into %d children: not within 1 to %d", o.N, api.MaxFork)
	}
	specs, err := h.childSpecs(o)
	if err != nil {
		return nil, err
	}
	scratch, dir, err := h.m.newPoint()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	var saved control.Pointed
	if err := h.point(ctx, dir, control.Point{Step: o.At, Brief: true}, &saved); err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(h.m.store.Root(), string(dir))
	if err != nil {
		return nil, err
	}
	children := make([]*Handle, o.N)
	g, gctx := errgroup.WithContext(ctx)
	// More at once than processors only wait for each other, under emulation for long.
	g.SetLimit(max(2, runtime.NumCPU()))
	for i, spec := range specs {
		g.Go(func() (err error) {
			children[i], err = h.m.create(gctx, control.Create{Spec: spec, Point: rel, Origin: "fork " + h.id, PauseMS: saved.PauseMS})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, removeAll(ctx, children))
	}
	return children, nil
}

// childSpecs are those of the children: the parent's, but for what is its alone.
func (h *Handle) childSpecs(o api.Fork) ([]api.Spec, error) {
	var rec control.Record
	if err := store.ReadJSON(h.dir().Spec(), &rec); err != nil {
		return nil, notFound(h.id)
	}
	specs := make([]api.Spec, o.N)
	for i := range specs {
		s := rec.Spec
		s.FromSnapshot, s.NoTemplate, s.Ephemeral = "", false, o.Ephemeral
		s.Ports = childPorts(s.Ports)
		if s.Ephemeral {
			s.IdleAction = "" // it cannot outlive its client, not even asleep
		}
		s.Name = o.Name
		if o.Name != "" && o.N > 1 {
			s.Name = fmt.Sprintf("%s-%d", o.Name, i+1)
		}
		if err := s.WithDefaults().Check(); err != nil {
			return nil, err
		}
		specs[i] = s
	}
	return specs, nil
}

// childPorts are ports of the host that are free: the parent keeps its own.
func childPorts(ports []api.Port) []api.Port {
	ports = slices.Clone(ports)
	for i := range ports {
		ports[i].HostPort, ports[i].Picked = 0, true
	}
	return ports
}

func removeAll(ctx context.Context, list []*Handle) error {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	var errs []error
	for _, h := range list {
		if h != nil {
			errs = append(errs, h.Remove(ctx))
		}
	}
	return errors.Join(errs...)
}
