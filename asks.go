package smolvm

import (
	"context"

	"github.com/smolvm/smolvm/api"
)

// FlowEvent is what happens to flows that wait for an answer.
type FlowEvent = api.FlowEvent

// PendingFlows lists the flows that wait for an answer, the oldest first. Rules with
// the action ask make flows wait.
func (s *Sandbox) PendingFlows(ctx context.Context) ([]PendingFlow, error) {
	return s.h.PendingFlows(ctx)
}

// AnswerFlow answers a flow of PendingFlows, and all that wait for the same. It
// returns the rule that now stands first in the policy, nil after an answer for once.
// Class NotFound where the flow does not wait any more.
func (s *Sandbox) AnswerFlow(ctx context.Context, a FlowAnswer) (*api.Rule, error) {
	out, err := s.h.AnswerFlow(ctx, a)
	return out.Rule, err
}

// WatchFlows calls f with each event, beginning with the flows that wait already,
// until ctx ends, which is an error, or the sandbox's network does. It returns f's
// first error.
func (s *Sandbox) WatchFlows(ctx context.Context, f func(FlowEvent) error) error {
	return s.h.WatchFlows(ctx, f)
}
