package manager

import (
	"context"
	"errors"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/store"
)

// Network returns what the sandbox may reach.
func (h *Handle) Network(ctx context.Context) (n api.Network, err error) {
	err = h.ask(ctx, control.RouteNetwork, nil, &n)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return n, err
	}
	var rec control.Record
	if err := store.ReadJSON(h.dir().Spec(), &rec); err != nil {
		return n, notFound(h.id)
	}
	return rec.Spec.Network, nil
}

// SetNetwork changes what the sandbox may reach, and returns all of it.
func (h *Handle) SetNetwork(ctx context.Context, c api.NetworkChange) (n api.Network, err error) {
	err = h.ask(ctx, control.RouteSetNetwork, c, &n)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return n, err
	}
	err = h.edit(func(rec *control.Record, write func() error) error {
		if n, err = c.Apply(rec.Spec.Network); err != nil {
			return err
		}
		if n.Policy != nil {
			if _, err := egress.New(*n.Policy); err != nil {
				return err
			}
		}
		rec.Spec.Network = n
		return write()
	})
	return n, err
}
