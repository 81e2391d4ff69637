package supervisor

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/netstack"
)

// simple decides flows by what their first packet shows. What needs more is denied.
// Package network will do it all; this is until then.
type simple struct {
	*netstack.Network
	policy atomic.Pointer[egress.Policy]
	host   *egress.Host
}

func startSimple(conn net.Conn, spec api.Network, names []netstack.Pin) (*simple, error) {
	p, err := policyOf(spec)
	if err != nil {
		return nil, err
	}
	n := &simple{host: new(egress.Host)}
	n.policy.Store(p)
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			n.host.Addrs = append(n.host.Addrs, p.Addr().Unmap())
		}
	}
	c := netstack.Config{Decider: n, Names: names}
	if len(spec.DNS) > 0 {
		c.Upstream = netstack.Servers(spec.DNS...)
	}
	n.Network, err = netstack.New(conn, c)
	return n, err
}

func policyOf(spec api.Network) (*egress.Policy, error) {
	if spec.Policy == nil {
		return egress.Mode(spec.Mode)
	}
	return egress.New(*spec.Policy)
}

// SetPolicy makes another policy hold for what begins from now on.
func (n *simple) SetPolicy(p *egress.Policy) { n.policy.Store(p) }

// Question implements netstack.Decider.
func (n *simple) Question(_ context.Context, q netstack.Question) netstack.Decision {
	return decision(egress.Decide(n.policy.Load(), n.host, egress.Request{
		At: time.Now(), Protocol: egress.DNS, Question: q.Name, Type: q.Type,
	}))
}

// Flow implements netstack.Decider.
func (n *simple) Flow(_ context.Context, f netstack.Flow) netstack.Decision {
	d := decision(egress.Decide(n.policy.Load(), n.host, egress.Request{
		At: time.Now(), Protocol: string(f.Proto), Addr: f.Dst.Addr(), Port: f.Dst.Port(), Names: f.Names,
	}))
	if len(f.Names) > 0 {
		d.Name = f.Names[0]
	}
	return d
}

// Address implements netstack.Decider.
func (n *simple) Address(name string, addr netip.Addr) netstack.Decision {
	return decision(egress.DecideAddress(n.policy.Load(), n.host, name, addr, time.Now()))
}

func decision(d egress.Decision) netstack.Decision {
	nd := netstack.Decision{Rule: d.RuleID, Reason: d.Why}
	if d.Action == egress.Allow {
		nd.Verdict = netstack.Allow
	}
	return nd
}
