package egress

import (
	"slices"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Action is what a rule or a decision does with a flow.
type Action = api.PolicyAction

// The actions. More is for decisions alone.
const (
	Allow        = api.PolicyAllow
	Deny         = api.PolicyDeny
	Ask          = api.PolicyAsk
	More  Action = "more" // undecided: show what Decision.Need names
)

// Protocols of flows.
const (
	TCP  = "tcp"
	UDP  = "udp"
	ICMP = "icmp" // echo requests, also those of ICMPv6
	DNS  = "dns"  // a question to our own resolver; for requests, not for rules
)

// What to do with an encrypted client hello.
const (
	ECHDeny  = api.ECHDeny
	ECHOuter = api.ECHOuter
)

// The form in which policies are written and kept is the API's.
type (
	Document = api.Policy
	Rule     = api.Rule
)

// Policy is a valid document, ready to decide. It never changes. Its zero value
// denies everything.
type Policy struct {
	doc   Document
	rules []rule
}

// Document returns the policy as it can be kept or shown. The caller may change it.
func (p *Policy) Document() Document {
	d := p.doc
	d.Version, d.Default = 1, p.defaultAction()
	d.Rules = nil
	for _, r := range p.doc.Rules {
		d.Rules = append(d.Rules, clone(r))
	}
	return d
}

func (p *Policy) defaultAction() Action {
	if p.doc.Default == "" {
		return Deny
	}
	return p.doc.Default
}

// clone returns a copy of r that shares nothing with it.
func clone(r Rule) Rule {
	r.Domains, r.Groups, r.CIDRs = slices.Clone(r.Domains), slices.Clone(r.Groups), slices.Clone(r.CIDRs)
	r.Ports, r.Protocols = slices.Clone(r.Ports), slices.Clone(r.Protocols)
	r.Methods, r.Paths = slices.Clone(r.Methods), slices.Clone(r.Paths)
	return r
}

// Append returns a policy with rules at the end.
func (p *Policy) Append(rules ...Rule) (*Policy, error) {
	return p.Insert(len(p.doc.Rules), rules...)
}

// Insert returns a policy with rules in front of the one at an index: 0 lets
// them decide first, as an answer to an ask must.
func (p *Policy) Insert(at int, rules ...Rule) (*Policy, error) {
	d := p.Document()
	d.Rules = slices.Insert(d.Rules, min(max(at, 0), len(d.Rules)), rules...)
	return New(d)
}

// Remove returns a policy without the rule of an ID, and whether there was one.
func (p *Policy) Remove(id string) (*Policy, bool) {
	return p.without(func(r Rule) bool { return r.ID == id })
}

// Prune returns a policy without the rules that have expired, and whether there
// were any. What it decides does not change.
func (p *Policy) Prune(at time.Time) (*Policy, bool) {
	return p.without(func(r Rule) bool { return !r.Live(at) })
}

func (p *Policy) without(gone func(Rule) bool) (*Policy, bool) {
	q := &Policy{doc: p.doc}
	q.doc.Rules = nil
	for i, r := range p.doc.Rules {
		if !gone(r) {
			q.doc.Rules = append(q.doc.Rules, r)
			q.rules = append(q.rules, p.rules[i])
		}
	}
	return q, len(q.rules) < len(p.rules)
}

// NextExpiry returns when the next rule that still lives expires, and whether
// any will: then decisions may change.
func (p *Policy) NextExpiry(at time.Time) (time.Time, bool) {
	var next time.Time
	for i := range p.rules {
		e := p.rules[i].expires
		if !e.IsZero() && at.Before(e) && (next.IsZero() || e.Before(next)) {
			next = e
		}
	}
	return next, !next.IsZero()
}
