package supervisor

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/forward"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/netlog"
)

// dialPort connects to a server in the guest for a forwarded port. A sandbox is in
// use as long as such a connection is open.
func (s *Supervisor) dialPort(ctx context.Context, d guest.Dial) (forward.Flow, error) {
	select {
	case <-s.up: // who comes while it comes up waits
	case <-s.over:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if st := s.gate.get().State; st != api.StateRunning {
		return nil, s.notRunning(st)
	}
	end, ok := s.idle.begin()
	if !ok {
		return nil, errAsleep
	}
	f, err := guest.Client{Opener: s.session()}.Dial(ctx, d)
	if err != nil {
		end()
		return nil, err
	}
	return usingFlow{f, end}, nil
}

// seenPort records a connection that came in by a port.
func (s *Supervisor) seenPort(p api.Port, peer netip.AddrPort, refused error) {
	log, err := s.openRecord()
	if err != nil {
		slog.Warn("record a connection to a forwarded port", "err", err)
		return
	}
	e := netlog.Entry{
		Kind: api.EventPort, Verdict: api.PolicyAllow, Proto: p.Proto, Address: peer.Addr().Unmap().String(), Port: p.GuestPort,
		Reason: "It came in by port " + net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort)) + " of the host.",
	}
	if refused != nil {
		e.Verdict, e.Reason = api.PolicyDeny, e.Reason+" The guest did not take it: "+refused.Error()+"."
	}
	log.Record(e)
}

// usingFlow is a flow that keeps the sandbox in use.
type usingFlow struct {
	*guest.Flow
	end func()
}

func (u usingFlow) Close() error {
	u.end()
	return u.Flow.Close()
}

// bindPorts binds all ports or none, and returns them with their numbers.
func (s *Supervisor) bindPorts(ports []api.Port) ([]api.Port, error) {
	var bound []api.Port
	for _, p := range ports {
		b, err := s.forwards.Add(p)
		if err != nil {
			s.unbindPorts(bound)
			return nil, err
		}
		bound = append(bound, b)
	}
	return bound, nil
}

func (s *Supervisor) unbindPorts(bound []api.Port) {
	for _, p := range bound {
		s.forwards.Remove(p)
	}
}

// openPorts binds the sandbox's ports as it comes up. Who connects waits until it
// is up.
func (s *Supervisor) openPorts() error {
	ports := s.record().Spec.Ports
	bound, err := s.bindPorts(ports)
	if err == nil && !slices.Equal(bound, ports) {
		err = s.change(func(r *control.Record) error { r.Spec.Ports = bound; return nil })
	}
	if err == nil {
		return nil
	}
	err = api.Errorf(api.ClassOf(err), "start sandbox %q: %w", s.record().Spec.Name, err)
	s.gate.move(s.fallback(api.StateStopped), err.Error())
	return err
}

// expose serves RouteExpose.
func (s *Supervisor) expose(_ context.Context, p api.Port) (bound api.Port, err error) {
	err = s.ifUp(func() error {
		p = p.WithDefaults()
		if _, err := api.AddPort(s.record().Spec.Ports, p); err != nil {
			return err // says more than the kernel would
		}
		if bound, err = s.forwards.Add(p); err != nil {
			return err
		}
		err = s.change(func(r *control.Record) (err error) {
			r.Spec.Ports, err = api.AddPort(r.Spec.Ports, bound)
			return err
		})
		if err != nil {
			s.forwards.Remove(bound)
		}
		return err
	})
	return bound, err
}

// unexpose serves RouteUnexpose.
func (s *Supervisor) unexpose(_ context.Context, p api.Port) (removed []api.Port, err error) {
	err = s.ifUp(func() error {
		return s.change(func(r *control.Record) (err error) {
			r.Spec.Ports, removed, err = api.RemovePorts(r.Spec.Ports, p)
			return err
		})
	})
	s.unbindPorts(removed)
	return removed, err
}
