package manager

import (
	"context"
	"errors"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
)

// Secrets describes the sandbox's secrets. Of one that does not run no value is here.
func (h *Handle) Secrets(ctx context.Context) (out []api.SecretStatus, err error) {
	err = h.ask(ctx, control.RouteSecrets, nil, &out)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return out, err
	}
	if _, err := h.Info(ctx); err != nil {
		return nil, err
	}
	var rec control.Record
	if err := store.ReadJSON(h.dir().Spec(), &rec); err != nil {
		return nil, err
	}
	for _, s := range rec.Spec.Secrets {
		out = append(out, api.SecretStatus{Name: s.Name, Hosts: s.Hosts})
	}
	return out, nil
}

// SetSecret gives the running sandbox a secret's value.
func (h *Handle) SetSecret(ctx context.Context, s api.Secret) (out api.SecretStatus, err error) {
	err = h.call(ctx, control.RouteSetSecret, s, &out)
	return out, err
}

// RemoveSecret has the sandbox forget a secret.
func (h *Handle) RemoveSecret(ctx context.Context, name string) error {
	err := h.ask(ctx, control.RouteRemoveSecret, control.SecretName{Name: name}, nil)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return err
	}
	return h.edit(func(rec *control.Record, write func() error) (err error) {
		if rec.Spec.Secrets, err = control.RemoveSecret(rec.Spec.Secrets, name); err != nil {
			return err
		}
		return write()
	})
}
