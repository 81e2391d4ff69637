package manager

import (
	"context"
	"errors"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
)

// Expose leads a port of the host into the sandbox. Where the sandbox does not run
// the port is bound when it starts.
func (h *Handle) Expose(ctx context.Context, p api.Port) (bound api.Port, err error) {
	p = p.WithDefaults()
	if err := p.Check(); err != nil {
		return p, err
	}
	err = h.ask(ctx, control.RouteExpose, p, &bound)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return bound, err
	}
	return p, h.edit(func(rec *control.Record, write func() error) (err error) {
		if rec.Spec.Ports, err = api.AddPort(rec.Spec.Ports, p); err != nil {
			return err
		}
		return write()
	})
}

// Unexpose ends the ports that p means, with their connections, and returns them.
func (h *Handle) Unexpose(ctx context.Context, p api.Port) (removed []api.Port, err error) {
	err = h.ask(ctx, control.RouteUnexpose, p, &removed)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return removed, err
	}
	return removed, h.edit(func(rec *control.Record, write func() error) (err error) {
		if rec.Spec.Ports, removed, err = api.RemovePorts(rec.Spec.Ports, p); err != nil {
			return err
		}
		return write()
	})
}
