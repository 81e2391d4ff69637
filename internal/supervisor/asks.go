package supervisor

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/network"
)

// flowOwner finds the guest's process that began a flow.
func (s *Supervisor) flowOwner(ctx context.Context, f netstack.Flow) (api.NetworkProcess, error) {
	if s.gate.get().State != api.StateRunning {
		return api.NetworkProcess{}, api.Errorf(api.Unavailable, "find the process of a flow: the guest does not run")
	}
	o, err := guest.Client{Opener: s.session()}.Owner(ctx, guest.Owner{
		Proto: string(f.Proto), Port: int(f.Src.Port()), RemotePort: int(f.Dst.Port()),
	})
	return api.NetworkProcess{PID: o.PID, Argv: o.Argv}, err
}

// asking returns the network that may have questions.
func (s *Supervisor) asking() (*network.Network, error) {
	n := s.wiring.network()
	if n == nil {
		return nil, api.Errorf(api.Conflict, "see what waits in the network of sandbox %q: it has no network", s.record().Spec.Name).
			WithRecovery("Give it one with: smolvm network set %s --network policy", s.record().Spec.Name)
	}
	return n, nil
}

// pendingFlows serves RoutePending.
func (s *Supervisor) pendingFlows(context.Context, struct{}) ([]api.PendingFlow, error) {
	n, err := s.asking()
	if err != nil {
		return nil, err
	}
	return n.Pending(), nil
}

// answerFlow serves RouteAnswer. It changes the policy, as setNetwork does.
func (s *Supervisor) answerFlow(_ context.Context, a api.FlowAnswer) (out api.FlowOutcome, err error) {
	n, err := s.asking()
	if err != nil {
		return out, err
	}
	s.wiring.changes.Lock()
	defer s.wiring.changes.Unlock()
	out.Rule, err = n.Answer(a)
	return out, err
}

// flowEvents serves RouteFlowEvents until the client or the network ends.
func (s *Supervisor) flowEvents(w http.ResponseWriter, r *http.Request) {
	n, err := s.asking()
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	events, stop := n.Watch()
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w).Flush
	if err := flush(); err != nil { // the head, so that the client knows that we watch
		return
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if err := control.WriteEvent(w, string(e.Kind), e); err != nil {
				slog.Debug("write event", "err", err) // the client went away
				return
			}
			if err := flush(); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.server.closing.Done():
			return
		}
	}
}
