package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/smolvm/smolvm/api"
)

// open takes a place of a kind of flow, and one of all; close gives both back.
func (n *Network) open(kind slots) bool {
	if !n.flows.try() {
		return false
	}
	if !kind.try() {
		n.flows.release()
		return false
	}
	return true
}

func (n *Network) close(kind slots) {
	kind.release()
	n.flows.release()
}

// newFlow describes a flow by the stack's name for it, in which the guest is the
// remote side.
func (n *Network) newFlow(proto Proto, id stack.TransportEndpointID) Flow {
	return n.flowBetween(proto,
		netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort),
		netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort))
}

func (n *Network) flowBetween(proto Proto, src, dst netip.AddrPort) Flow {
	dst = netip.AddrPortFrom(n.behind(dst.Addr()), dst.Port())
	return Flow{
		ID: n.flowID.Add(1), Proto: proto, Src: src, Dst: dst,
		Names: n.dns.names.of(dst.Addr()),
	}
}

// decide is the only way to a Decision about a flow. It may take as long as
// someone thinks about it.
func (n *Network) decide(ctx context.Context, f Flow) Decision {
	waits, stop := context.WithCancel(ctx)
	d := n.settle(waits, n.ask(waits, f))
	stop()
	if d.Verdict == Serve && (f.Proto != TCP || d.Handler == nil) {
		d = Decision{Rule: d.Rule, Reason: "nothing here can serve it"}
	}
	if d.Verdict != Allow && d.Verdict != Serve {
		d.Verdict = Deny
		n.count.denied.Add(1)
	} else {
		n.count.allowed.Add(1)
	}
	n.record(Event{Kind: EventFlow, Flow: f, Verdict: d.Verdict, Rule: d.Rule, Reason: d.Reason})
	return d
}

func (n *Network) ask(ctx context.Context, f Flow) Decision {
	if n.meter.isOver() {
		return Decision{Reason: n.meter.overError().Error()}
	}
	return n.cfg.Decider.Flow(ctx, f)
}

// dial makes the host's side of a flow: it connects to what d says, and to
// nothing if d is not Allow.
func (n *Network) dial(ctx context.Context, f Flow, d Decision) (net.Conn, error) {
	if d.Verdict != Allow {
		return nil, api.Errorf(api.Denied, "connect to %s: %s", f.Dst, d.Reason)
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Limits.ConnectTimeout)
	defer cancel()
	if err := n.connecting.get(ctx); err != nil {
		return nil, err
	}
	defer n.connecting.release()
	targets, err := n.targets(ctx, f, d)
	if err != nil {
		return nil, err
	}
	for i, t := range targets {
		var conn net.Conn
		if conn, err = n.dialOne(ctx, f.Proto, t, len(targets)-i); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// dialOne tries one address, with its share of the time that ctx still has.
func (n *Network) dialOne(ctx context.Context, proto Proto, to netip.AddrPort, left int) (net.Conn, error) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
	defer cancel()
	return n.cfg.Dialer.DialContext(ctx, string(proto), to.String())
}

// targets says which addresses to try for an allowed flow, in order.
func (n *Network) targets(ctx context.Context, f Flow, d Decision) ([]netip.AddrPort, error) {
	port := f.Dst.Port()
	set(&d.Port, port)
	switch {
	case d.Addr.IsValid():
		return []netip.AddrPort{netip.AddrPortFrom(d.Addr, d.Port)}, nil
	case d.Name == "":
		return []netip.AddrPort{netip.AddrPortFrom(f.Dst.Addr(), d.Port)}, nil
	}
	addrs, err := n.addressesOf(ctx, f, d.Name)
	if err != nil {
		return nil, err
	}
	targets := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		targets[i] = netip.AddrPortFrom(a, d.Port)
	}
	return targets, nil
}

// maxTargets bounds how many addresses of a name one flow tries.
const maxTargets = 8

// addressesOf returns where a name is. If the guest connects to an address that
// we gave it for this name, that one comes first.
func (n *Network) addressesOf(ctx context.Context, f Flow, name string) ([]netip.Addr, error) {
	name = canonical(name)
	var addrs []netip.Addr
	if pinned := f.Dst.Addr(); slices.Contains(f.Names, name) && n.addressAllowed(name, pinned) {
		return append(addrs, pinned), nil
	}
	types := []string{"A", "AAAA"}
	if f.Dst.Addr().Is6() {
		slices.Reverse(types)
	}
	var failed error
	for _, t := range types {
		found, err := n.dns.lookup(ctx, Question{Name: name, Type: t})
		if err != nil {
			failed = err
		}
		addrs = append(addrs, found...)
	}
	switch {
	case len(addrs) > 0:
		return addrs[:min(len(addrs), maxTargets)], nil
	case failed != nil:
		return nil, failed
	}
	return nil, api.Errorf(api.NotFound, "find %s: it has no address that policy allows", name)
}

// addressAllowed asks about the address of a name.
func (n *Network) addressAllowed(name string, a netip.Addr) bool {
	return !(a.Is6() && a != loopback6 && embedded4(a)) && n.cfg.Decider.Address(name, a).Verdict == Allow
}

// outcome is how a failed connection looks to the guest.
type outcome uint8

const (
	looksRefused outcome = iota
	looksSilent
	looksUnreachable
)

// outcomeOf makes the guest see what the host saw.
func outcomeOf(err error) outcome {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return looksRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return looksSilent
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return looksSilent // ours, and passing: the guest tries again
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return looksUnreachable
	}
	return looksRefused
}
