package supervisor

import (
	"context"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/forward"
)

// server is the HTTP server on the sandbox's socket.
type server struct {
	http    http.Server
	streams sync.WaitGroup  // connections that were upgraded
	served  chan struct{}   // closed when Serve has returned
	closing context.Context // ends when streams are to end
	close   context.CancelFunc
}

// maxBody bounds a request's body: an environment change is the largest.
const maxBody = 8 << 20

// serve starts answering on l.
func (s *Supervisor) serve(l net.Listener) {
	s.ends = make(chan end)
	s.swaps = make(chan func() error)
	s.up, s.over = make(chan struct{}), make(chan struct{})
	s.idle = newIdle(s.record().Spec.IdleTimeout())
	s.forwards = forward.New(forward.Config{Dial: s.dialPort, Seen: s.seenPort})
	s.server = &server{served: make(chan struct{})}
	s.server.closing, s.server.close = context.WithCancel(context.Background())
	s.server.http = http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second, // the peer is on this host
		MaxHeaderBytes:    16 << 10,
	}
	go func() {
		defer close(s.server.served)
		s.server.http.Serve(l)
	}()
}

// hangUp lets calls under way finish, ends streams and forwarded ports, and stops
// answering.
func (s *Supervisor) hangUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.server.close()
	s.forwards.Close()
	if err := s.server.http.Shutdown(ctx); err != nil {
		s.server.http.Close()
	}
	<-s.server.served
	s.server.streams.Wait()
}

func (s *Supervisor) routes() http.Handler {
	mux := http.NewServeMux()
	handle(mux, control.RouteSandbox, func(context.Context, struct{}) (api.Sandbox, error) {
		return s.describe(), nil
	})
	handle(mux, control.RoutePause, func(ctx context.Context, _ struct{}) (api.Sandbox, error) {
		return s.described(s.ifUp(func() error { return s.pause(ctx) }))
	})
	handle(mux, control.RouteResume, func(ctx context.Context, _ struct{}) (api.Sandbox, error) {
		return s.described(s.ifUp(func() error { return s.resume(ctx) }))
	})
	handle(mux, control.RouteStop, s.stop)
	handle(mux, control.RouteKill, func(ctx context.Context, _ struct{}) (api.Sandbox, error) {
		return s.stop(ctx, api.Stop{GraceSeconds: -1})
	})
	handle(mux, control.RouteWait, func(ctx context.Context, _ struct{}) (api.Sandbox, error) {
		select {
		case <-s.over:
			return s.describe(), nil
		case <-ctx.Done():
			return api.Sandbox{}, ctx.Err()
		}
	})
	handle(mux, control.RouteRename, s.rename)
	handle(mux, control.RouteEnv, func(context.Context, struct{}) (map[string]string, error) {
		return s.record().Spec.Env, nil
	})
	handle(mux, control.RouteSetEnv, s.setEnv)
	handle(mux, control.RouteStats, s.stats)
	handle(mux, control.RouteExpose, s.expose)
	handle(mux, control.RouteUnexpose, s.unexpose)
	handle(mux, control.RouteSecrets, s.listSecrets)
	handle(mux, control.RouteSetSecret, s.setSecret)
	handle(mux, control.RouteRemoveSecret, s.removeSecret)
	handle(mux, control.RouteNetwork, s.networkPolicy)
	handle(mux, control.RouteSetNetwork, func(ctx context.Context, c api.NetworkChange) (n api.Network, err error) {
		err = s.ifUp(func() error { n, err = s.setNetwork(ctx, c); return err })
		return n, err
	})
	handle(mux, control.RoutePending, s.pendingFlows)
	handle(mux, control.RouteAnswer, s.answerFlow)
	mux.HandleFunc(control.RouteFlowEvents, s.flowEvents)
	handle(mux, control.RoutePoint, s.point)
	handle(mux, control.RouteCheckpoint, s.checkpoint)
	handle(mux, control.RouteRewind, s.rewindTo)
	mux.HandleFunc(control.RouteStream, s.stream)
	mux.HandleFunc(control.RouteCapture, s.capture)
	mux.HandleFunc(control.RouteClaim, s.claim)
	return mux
}

func handle[In, Out any](mux *http.ServeMux, route string, f func(context.Context, In) (Out, error)) {
	control.Handle(mux, route, maxBody, f)
}

func (s *Supervisor) described(err error) (api.Sandbox, error) {
	if err != nil {
		return api.Sandbox{}, err
	}
	return s.describe(), nil
}

// ifUp runs f where the sandbox has come up.
func (s *Supervisor) ifUp(f func() error) error {
	switch st := s.gate.get().State; st {
	case api.StateRunning, api.StatePaused:
		return f()
	default:
		return s.notRunning(st)
	}
}

func (s *Supervisor) notRunning(st api.State) error {
	return api.Errorf(api.Unavailable, "sandbox %q is %s", s.record().Spec.Name, st).
		WithCode("not_running").WithRecovery("Start it with: smolvm start %s", s.record().Spec.Name)
}

// maxGrace bounds what a caller may ask for; the agent bounds it further.
const maxGrace = time.Hour

// stop asks live to end the sandbox and waits until it has.
func (s *Supervisor) stop(ctx context.Context, o api.Stop) (api.Sandbox, error) {
	e := end{state: api.StateStopped, reason: "stopped by its user", grace: api.DefaultGrace}
	switch {
	case o.Hibernate:
		if err := s.ifUp(func() error { return nil }); err != nil {
			return api.Sandbox{}, err
		}
		if s.record().Spec.Ephemeral {
			return api.Sandbox{}, api.Errorf(api.Invalid, "hibernate sandbox %q: it is ephemeral and ends with its client", s.record().Spec.Name)
		}
		e = end{state: api.StateHibernated, reason: "hibernated by its user", grace: -1, refused: make(chan error, 1)}
	case o.GraceSeconds < 0:
		e.grace = -1
	case o.GraceSeconds > 0:
		e.grace = time.Duration(min(o.GraceSeconds, maxGrace.Seconds()) * float64(time.Second))
	}
	select {
	case s.ends <- e:
	case <-s.over: // somebody else was faster
	case <-ctx.Done():
		return api.Sandbox{}, ctx.Err()
	}
	select {
	case <-s.over:
		return s.describe(), nil
	case err := <-e.refused:
		return api.Sandbox{}, err
	case <-ctx.Done():
		return api.Sandbox{}, ctx.Err()
	}
}

func (s *Supervisor) rename(_ context.Context, r control.Rename) (api.Sandbox, error) {
	if err := api.CheckName(r.Name); err != nil {
		return api.Sandbox{}, err
	}
	s.renames.Lock()
	defer s.renames.Unlock()
	old := s.record()
	if r.Name == old.Spec.Name {
		return s.describe(), nil
	}
	return s.described(s.parts.Store.Rename(old.ID, old.Spec.Name, r.Name, func() error {
		return s.change(func(rec *control.Record) error {
			rec.Spec.Name = r.Name
			return nil
		})
	}))
}

func (s *Supervisor) setEnv(_ context.Context, c api.EnvChange) (out api.EnvChanged, err error) {
	err = s.change(func(rec *control.Record) error {
		rec.Spec.Env = maps.Clone(rec.Spec.Env)
		out, err = control.ChangeEnv(&rec.Spec.Env, c)
		return err
	})
	return out, err
}
