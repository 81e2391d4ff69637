package egress

import (
	"slices"
	"time"
)

// Action is what a rule or a decision does with a flow.
type Action string

// The actions. More is for decisions alone.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
	Ask   Action = "ask"  // hold it and ask a person
	More  Action = "more" // undecided: show what Decision.Need names
)

// Protocols of flows.
const (
	TCP  = "tcp"
	UDP  = "udp"
	ICMP = "icmp" // echo requests, also those of ICMPv6
	DNS  = "dns"  // a question to our own resolver; for requests, not for rules
)

// What to do where a TLS client hello has an encrypted part that may hold
// another name than the one to be seen.
const (
	ECHDeny  = "deny"       // rules with domains do not allow it
	ECHOuter = "outer-name" // believe the visible name
)

// Document is a policy as people write it and as it is kept: the one form for
// YAML, JSON and Go. Its zero value denies everything.
type Document struct {
	Version int    `yaml:"version" json:"version"`             // 1; 0 means 1
	Default Action `yaml:"default" json:"default"`             // where no rule decides; empty: deny
	ECH     string `yaml:"ech,omitempty" json:"ech,omitempty"` // ECHDeny or ECHOuter; empty: ECHDeny
	Rules   []Rule `yaml:"rules,omitempty" json:"rules,omitempty"`
}

// Rule says what to do with flows that meet all its conditions. The first rule
// that is met decides. A condition left out is always met.
type Rule struct {
	ID     string `yaml:"id,omitempty" json:"id,omitempty"` // unique; empty: one is given
	Action Action `yaml:"action" json:"action"`

	// Destination. Domains are exact names, *.suffix for all names below, or *
	// for any public name. Groups are lists of domains that come with smolvm; they
	// and Domains are alternatives. CIDRs are prefixes or addresses. With Domains
	// or Groups, CIDRs must hold as well: they say where such a name may lead.
	Domains []string `yaml:"domains,omitempty,flow" json:"domains,omitempty"`
	Groups  []string `yaml:"groups,omitempty,flow" json:"groups,omitempty"`
	CIDRs   []string `yaml:"cidrs,omitempty,flow" json:"cidrs,omitempty"`

	// Ports are numbers and ranges ("443", "8000-8100"). Empty: all, and for a
	// group its own.
	Ports []string `yaml:"ports,omitempty,flow" json:"ports,omitempty"`

	// Protocols are tcp, udp, icmp. Empty: all, but for a rule that allows domains
	// tcp, the only one in which a name can be checked.
	Protocols []string `yaml:"protocols,omitempty,flow" json:"protocols,omitempty"`

	// Methods and Paths are of HTTP requests. Either needs Domains or Groups. A
	// path means itself and all below it, or is a glob with * and **.
	Methods []string `yaml:"methods,omitempty,flow" json:"methods,omitempty"`
	Paths   []string `yaml:"paths,omitempty,flow" json:"paths,omitempty"`

	// Expires ends the rule; zero: never. TTL is read once, by Parse, and becomes
	// Expires.
	Expires time.Time `yaml:"expires,omitempty" json:"expires,omitzero"`
	Note    string    `yaml:"note,omitempty" json:"note,omitempty"` // for people
}

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
		d.Rules = append(d.Rules, r.clone())
	}
	return d
}

func (p *Policy) defaultAction() Action {
	if p.doc.Default == "" {
		return Deny
	}
	return p.doc.Default
}

func (r Rule) clone() Rule {
	r.Domains, r.Groups, r.CIDRs = slices.Clone(r.Domains), slices.Clone(r.Groups), slices.Clone(r.CIDRs)
	r.Ports, r.Protocols = slices.Clone(r.Ports), slices.Clone(r.Protocols)
	r.Methods, r.Paths = slices.Clone(r.Methods), slices.Clone(r.Paths)
	return r
}

// Live reports whether a rule has not expired.
func (r Rule) Live(at time.Time) bool { return r.Expires.IsZero() || at.Before(r.Expires) }

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
