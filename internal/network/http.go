package network

import (
	"cmp"
	"context"
	"fmt"
	"net"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/egress/sniff"
	"github.com/smolvm/smolvm/internal/intercept"
)

// Intercepts reports whether TLS may be opened, so that the guest must trust the
// sandbox's authority. A change of policy or of the secrets can change it.
func (n *Network) Intercepts() bool {
	return n.cfg.Spec.Log == api.NetworkLogHTTP || n.cfg.Secrets.Any() || n.policy.Load().UsesHTTP()
}

// curious reports whether the first bytes of flows are looked at even where policy
// allows them as they are.
func (n *Network) curious() bool {
	return n.cfg.Spec.Log == api.NetworkLogHTTP || n.cfg.Secrets.Any()
}

// wanted reports whether the requests of an allowed flow are to be looked at. TLS
// is opened for the record, or for a secret that is meant for its name; requests in
// clear also for the alarm about secrets that are in them.
func (s *session) wanted() bool {
	n := s.f.n
	switch s.kind {
	case sniff.TLS:
		return n.cfg.Spec.Log == api.NetworkLogHTTP || n.cfg.Secrets.For(nameOf(s.f.request()))
	case sniff.HTTP1:
		return n.curious()
	}
	return false
}

// open lets a flow out request by request, if it is HTTP and can be opened.
func (s *session) open(ctx context.Context, d egress.Decision) error {
	must := d.Action == egress.More
	req := s.f.request()
	name := nameOf(req)
	why := s.closed(req)
	switch {
	case must && s.bad != nil:
		return s.refuse(ctx, egress.Decision{Action: egress.Deny, Rule: d.Rule, RuleID: d.RuleID, Code: egress.CodeBadRequest, Why: "The request cannot be read in one way alone: " + s.bad.Error() + "."})
	case why == "" && must:
		s.f.settled(egress.Decision{Action: egress.Allow, Rule: d.Rule, RuleID: d.RuleID, Code: egress.CodeMore, Why: "Each HTTP request is decided by itself: " + d.Why})
	case why == "":
		s.f.settled(d)
	case must:
		return s.refuse(ctx, egress.Decision{Action: egress.Deny, Rule: d.Rule, RuleID: d.RuleID, Code: egress.CodeNotHTTP, Why: why + " " + d.Why})
	default:
		return s.pass(ctx, d)
	}
	s.f.recheck() // policy may have changed just before
	return s.f.n.opener.Serve(ctx, intercept.Replay(s.seen, s.guest), intercept.Flow{
		TLS: s.kind == sniff.TLS, Name: cmp.Or(name, req.Addr.String()), Port: req.Port,
		Dial:    func(ctx context.Context, _ string) (net.Conn, error) { return s.connect(ctx, d) },
		Decide:  s.f.decideHTTP,
		Rewrite: s.f.rewrite,
		Observe: s.f.observe,
	})
}

// closed says why requests in a flow cannot be looked at; empty: they can.
func (s *session) closed(req egress.Request) string {
	switch {
	case s.bad != nil:
		return "The request cannot be read."
	case s.kind == sniff.HTTP1:
		return ""
	case s.kind == sniff.Preface:
		return "HTTP/2 outside of TLS is not looked into."
	case s.kind != sniff.TLS:
		return "This is not HTTP."
	case s.f.n.cfg.CA == nil:
		return "TLS cannot be opened: the sandbox has no certificate authority."
	case nameOf(req) == "" || shownSNI(req) != nameOf(req):
		return "TLS can be opened only for a name of the address, which the client must send."
	}
	return ""
}

// decideHTTP decides about one request.
func (f *flow) decideHTTP(ctx context.Context, r *intercept.Request) intercept.Answer {
	req := f.request()
	whole := f.decide(req) // what would be if nobody looked
	req.HTTP = &egress.HTTP{Method: r.Method, Host: r.Host, Path: r.Path}
	a := f.n.answer(f.settle(ctx, req))
	a.Name = nameOf(req)
	a.Opaque = a.Allow && whole.Action == egress.Allow
	if !a.Allow {
		f.findOwner(ctx) // while the client still waits: then it may be gone
		return a
	}
	f.run(ctx, req.HTTP, a.Code == string(codeAnswer))
	return a
}

// answer says a decision to a person at the other end.
func (n *Network) answer(d egress.Decision) intercept.Answer {
	a := intercept.Answer{Allow: d.Action == egress.Allow, Rule: d.RuleID, Code: string(d.Code), Why: d.Why}
	if !a.Allow {
		a.Help = fmt.Sprintf("See what was denied with: smolvm network log --denied %s\nAllow it with: smolvm network set %[1]s --add --allow HOST", cmp.Or(n.cfg.Sandbox, "SANDBOX"))
	}
	return a
}
