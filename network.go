package smolvm

import (
	"context"

	"github.com/smolvm/smolvm/api"
)

// NetworkChange is another mode or policy of a sandbox's network.
type NetworkChange = api.NetworkChange

// Network returns what the sandbox may reach: with the rules that answers to
// questions have added to its policy.
func (s *Sandbox) Network(ctx context.Context) (Network, error) { return s.h.Network(ctx) }

// SetNetwork changes what the sandbox may reach, at once and from then on, and
// returns all of it. Flows under way that are not allowed any more end. Class Invalid
// for what cannot be enforced; nothing changes then.
func (s *Sandbox) SetNetwork(ctx context.Context, c NetworkChange) (Network, error) {
	return s.h.SetNetwork(ctx, c)
}
