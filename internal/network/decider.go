package network

import (
	"context"
	"net/netip"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/netstack"
)

// decider answers the stack's questions. It is the Network, under a name that
// keeps these methods out of its API.
type decider struct{ *Network }

func (n *Network) stackConfig() netstack.Config {
	return netstack.Config{
		Decider: decider{n}, Recorder: recorder{n},
		Dialer: n.cfg.Dialer, Upstream: n.upstream(), Now: n.cfg.Now,
		Names: n.cfg.Names, Used: n.cfg.Used, Limits: n.cfg.limits(),
	}
}

func (n *Network) upstream() netstack.Upstream {
	if n.cfg.Upstream == nil && len(n.cfg.Spec.DNS) > 0 {
		return netstack.Servers(n.cfg.Spec.DNS...)
	}
	return n.cfg.Upstream
}

// Question implements netstack.Decider.
func (n decider) Question(ctx context.Context, q netstack.Question) netstack.Decision {
	req := egress.Request{Protocol: egress.DNS, Question: q.Name, Type: q.Type}
	d := n.decide(req, nil)
	n.alarmName(q)
	switch {
	case d.Action == egress.Allow, emptyAnswer(d, q.Type):
		return netstack.Decision{Verdict: netstack.Allow, Rule: d.RuleID, Reason: d.Why}
	case d.Action != egress.Ask:
		n.questioner(q).findOwner(ctx)
		return netstack.Decision{Rule: d.RuleID, Reason: d.Why}
	}
	return n.hold(ctx, n.questioner(q), req, d, func(v verdict) netstack.Decision {
		if !v.allow {
			return netstack.Decision{Rule: v.rule, Reason: v.reason}
		}
		return netstack.Decision{Verdict: netstack.Allow, Rule: v.rule, Reason: v.reason}
	})
}

// questioner is the flow by which a question came, for finding its process.
func (n *Network) questioner(q netstack.Question) *flow {
	f := &flow{n: n, net: netstack.Flow{Proto: q.Proto, Src: q.Src, Dst: netip.AddrPortFrom(netstack.DefaultGateway4, 53)}}
	n.flows.mu.Lock()
	defer n.flows.mu.Unlock()
	n.flows.asking[q] = f
	return f
}

// asker returns the process that asked a question, where it was looked for, and
// forgets it.
func (n *Network) asker(q netstack.Question) *api.NetworkProcess {
	n.flows.mu.Lock()
	f := n.flows.asking[q]
	delete(n.flows.asking, q)
	n.flows.mu.Unlock()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.process
}

// emptyAnswer reports whether a question is to be answered with no records rather
// than denied, which would say that the name is not there. The stack asks nobody
// about these types.
func emptyAnswer(d egress.Decision, qtype string) bool {
	return d.Code == egress.CodeDNSType && (qtype == "HTTPS" || qtype == "SVCB")
}

// Address implements netstack.Decider.
func (n decider) Address(name string, addr netip.Addr) netstack.Decision {
	d := egress.DecideAddress(n.policy.Load(), n.host.get(), name, addr, n.cfg.Now())
	if d.Action != egress.Allow {
		return netstack.Decision{Rule: d.RuleID, Reason: d.Why}
	}
	return netstack.Decision{Verdict: netstack.Allow, Rule: d.RuleID, Reason: d.Why}
}

// Flow implements netstack.Decider.
func (n decider) Flow(ctx context.Context, nf netstack.Flow) netstack.Decision {
	f := n.track(nf)
	req := f.request()
	d := f.decide(req)
	switch d.Action {
	case egress.Ask:
		return n.hold(ctx, f, req, d, func(v verdict) netstack.Decision { return f.start(f.answered(req, d, v)) })
	case egress.Deny:
		f.findOwner(ctx) // before the guest hears of it: then its socket is gone
	}
	return f.start(d)
}

// start says how a flow goes on after what was decided at its first packet.
func (f *flow) start(d egress.Decision) netstack.Decision {
	nd := netstack.Decision{Rule: d.RuleID, Reason: d.Why}
	tcp := f.net.Proto == netstack.TCP
	switch d.Action {
	case egress.Allow:
		f.settled(d)
		nd.Verdict = netstack.Allow
		if tcp { // served even so: then it can be ended when the policy changes
			nd.Verdict, nd.Handler, nd.DialFirst = netstack.Serve, f.serve(d), true
		} else {
			nd.Ends = f.ending()
			f.pass()
		}
	case egress.More:
		nd.Verdict, nd.Handler, nd.DialFirst = netstack.Serve, f.serve(d), d.Dial
	default:
		f.settled(d)
		if tcp && f.net.Dst.Port() == 80 {
			nd.Verdict, nd.Handler = netstack.Serve, f.serve(d)
		}
	}
	return nd
}

// hold puts a question to a person and lets the stack wait.
func (n *Network) hold(ctx context.Context, f *flow, req egress.Request, d egress.Decision, then func(verdict) netstack.Decision) netstack.Decision {
	answer := make(chan netstack.Decision, 1)
	n.asks.join(ctx, f, req, d, func(v verdict) { answer <- then(v) })
	return netstack.Decision{
		Verdict: netstack.Wait, Answer: answer, Hold: n.cfg.hold() + holdSlack, Rule: d.RuleID, Reason: d.Why,
	}
}
