package supervisor

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
)

// noCoreDump keeps what is in memory alone out of core files, also of what this
// process starts. A limit of 1 byte, not 0: a core that goes to a program, as on most
// desktops (core_pattern begins with |), has no other limit (fs/coredump.c).
func noCoreDump() error {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &was); err != nil {
		return err
	}
	limit := min(was.Max, 1) // a hard limit cannot be raised
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: limit, Max: limit})
}

// takeSecrets moves the values of a spec into the vault: nothing that is kept, shown
// or sent on has them from then on.
func (s *Supervisor) takeSecrets(spec *api.Spec) error {
	secrets := slices.Clone(spec.Secrets)
	for i := range secrets {
		if err := s.secrets.Set(secrets[i]); err != nil {
			return err
		}
		secrets[i].Value = ""
	}
	spec.Secrets = secrets
	return nil
}

// listSecrets serves RouteSecrets.
func (s *Supervisor) listSecrets(context.Context, struct{}) ([]api.SecretStatus, error) {
	return s.secrets.List(), nil
}

// setSecret serves RouteSetSecret: a value, and hosts where they are given.
func (s *Supervisor) setSecret(ctx context.Context, in api.Secret) (out api.SecretStatus, err error) {
	err = s.ifUp(func() error {
		if in.Value == "" {
			return api.Errorf(api.Invalid, "set secret %.80q: no value is given", in.Name)
		}
		err := s.change(func(r *control.Record) (err error) {
			r.Spec.Secrets, in, err = control.ChangeSecret(r.Spec, in)
			if err != nil {
				return err
			}
			return s.secrets.Set(in)
		})
		if err != nil {
			return err
		}
		if s.gate.get().State == api.StateRunning {
			s.trustAuthority(ctx) // TLS is opened from now on
		}
		for _, st := range s.secrets.List() {
			if st.Name == in.Name {
				out = st
			}
		}
		return nil
	})
	return out, err
}

// removeSecret serves RouteRemoveSecret.
func (s *Supervisor) removeSecret(_ context.Context, in control.SecretName) (struct{}, error) {
	return struct{}{}, s.ifUp(func() error {
		err := s.change(func(r *control.Record) (err error) {
			r.Spec.Secrets, err = control.RemoveSecret(r.Spec.Secrets, in.Name)
			return err
		})
		if err == nil {
			s.secrets.Remove(in.Name)
		}
		return err
	})
}
