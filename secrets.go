package smolvm

import "context"

// SetSecret gives the sandbox, which must run, a secret, or another value or other
// hosts to one that it has. Its placeholder stays the same; processes started from
// now on have it in their environment. Without Hosts it keeps those that it has. A
// value lives as long as the sandbox's supervisor: after a stop, a hibernation or a
// crash it has to be set again. Children of a fork, and what continues a snapshot,
// have names and placeholders, but no values.
func (s *Sandbox) SetSecret(ctx context.Context, secret Secret) (SecretStatus, error) {
	return s.h.SetSecret(ctx, secret)
}

// RemoveSecret has the sandbox forget a secret. Class NotFound where it has none such.
func (s *Sandbox) RemoveSecret(ctx context.Context, name string) error {
	return s.h.RemoveSecret(ctx, name)
}

// Secrets describes the sandbox's secrets, without their values.
func (s *Sandbox) Secrets(ctx context.Context) ([]SecretStatus, error) { return s.h.Secrets(ctx) }
