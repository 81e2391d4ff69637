package manager

import (
	"context"
	"encoding/json"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
)

// PendingFlows lists the flows that wait for a person's answer.
func (h *Handle) PendingFlows(ctx context.Context) (list []api.PendingFlow, err error) {
	err = h.call(ctx, control.RoutePending, nil, &list)
	return list, err
}

// AnswerFlow answers one of them.
func (h *Handle) AnswerFlow(ctx context.Context, a api.FlowAnswer) (out api.FlowOutcome, err error) {
	err = h.call(ctx, control.RouteAnswer, a, &out)
	return out, err
}

// WatchFlows calls f with each event of flows that wait, those that wait already
// first, until ctx or the network ends.
func (h *Handle) WatchFlows(ctx context.Context, f func(api.FlowEvent) error) error {
	return h.explain(ctx, control.NewClient(h.dir().Socket()).Events(ctx, control.RouteFlowEvents, func(data []byte) error {
		var e api.FlowEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return api.Errorf(api.Internal, "read event %.200q: %w", data, err)
		}
		return f(e)
	}))
}
