package egress

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Decide says what to do with a flow or a DNS question, with what is known of it
// now. Host may be nil. Time is bounded by the size of the policy.
func Decide(p *Policy, h *Host, r Request) Decision {
	if r.Protocol == DNS {
		return decideDNS(p, r)
	}
	f, code, why := look(p, h, r)
	if f == nil {
		return Decision{Action: Deny, Rule: -1, Code: code, Why: why + "."}
	}
	s := &search{policy: p, facts: f, near: -1}
	for i := range p.rules {
		if v, code := p.rules[i].match(f); s.see(i, v, code) {
			break
		}
	}
	return s.decision()
}

// CouldResolve reports whether any flow to a name could be allowed, now or after
// asking: such names have answers.
func CouldResolve(p *Policy, name string, at time.Time) bool {
	return Decide(p, nil, Request{At: at, Protocol: DNS, Question: name, Type: "A"}).Action != Deny
}

// NeedsInterception reports whether TLS to a name and port may have to be opened
// for some flow: a rule about HTTP requests is about them.
func NeedsInterception(p *Policy, name string, port uint16, at time.Time) bool {
	name, err := NormalName(name)
	if err != nil {
		return false
	}
	for i := range p.rules {
		r := &p.rules[i]
		if covers, _ := r.covers(name, port); r.http() && r.live(at) && covers && inPorts(r.ports, port) {
			return true
		}
	}
	return false
}

// UsesHTTP reports whether any rule is about HTTP requests, so that the guest
// must trust a certificate authority of the sandbox.
func (p *Policy) UsesHTTP() bool {
	for i := range p.rules {
		if p.rules[i].http() {
			return true
		}
	}
	return false
}

// candidate is a possible outcome; rule -1 is the default.
type candidate struct {
	rule   int
	action Action
	code   Code
}

// search collects what the rules say of one flow.
type search struct {
	policy *Policy
	facts  *facts

	final *candidate  // the first rule that is met
	later []candidate // rules before it that may be met yet
	maybe *candidate  // the strictest before it that nothing will ever rule out

	near     int // the rule that was nearly met, for the reason
	nearCode Code
}

// see takes a rule's verdict and reports whether it ends the search.
func (s *search) see(i int, v verdict, code Code) bool {
	r := &s.policy.rules[i]
	c := candidate{i, r.action, CodeRule}
	switch v {
	case yes:
		s.final = &candidate{i, r.action, CodeRule} // not c, which stays on the stack
	case later:
		c.code = code
		s.later = append(s.later, c)
	case maybe:
		c.code = code
		if code == CodeQUIC {
			c.action = Deny // the client falls back to TCP, where it can be known
		}
		if s.maybe == nil || strictness(c.action) > strictness(s.maybe.action) {
			s.maybe = &candidate{i, c.action, code}
		}
	case no:
		// A rule that does not name the address is not near, whatever else it says.
		if code != "" && r.opens() && nearness(code) > nearness(s.nearCode) && r.namesAll(s.facts) {
			s.near, s.nearCode = i, code
		}
	}
	return v == yes
}

func strictness(a Action) int {
	return strings.Index("allow ask deny", string(a))
}

// nearest orders the reasons for which an opening rule was not met: the last
// that came up is told.
var nearest = [...]Code{
	CodeBareAddress, CodeSpecialName, CodeProtocol, CodePort, CodeQUIC, CodeExpired, CodeAddress, CodeNotHTTP, CodeMethod, CodePath,
	CodeAmbiguous, CodeNoSNI, CodeECH, CodeSNIMismatch, CodeHostMismatch,
}

func nearness(c Code) int { return slices.Index(nearest[:], c) }

// decision chooses among the outcomes.
func (s *search) decision() Decision {
	if s.final == nil {
		s.final = s.byDefault()
	}
	final := *s.final
	if m := s.maybe; m != nil && (strictness(m.action) > strictness(final.action) || m.code == CodeQUIC && final.code == CodeDefault) {
		final = *m
	}
	open := final.action == Allow
	differs := false
	for _, c := range s.later {
		// A flow that will be denied anyway is not asked about for a foreign name.
		if c.code == CodeSNIMismatch && final.action == Deny {
			continue
		}
		differs = differs || c.action != final.action
		open = open || c.action == Allow
	}
	if differs {
		return s.more(open)
	}
	d := Decision{Action: final.action, Rule: final.rule, Code: final.code}
	if final.rule >= 0 {
		d.RuleID = s.policy.rules[final.rule].id
	}
	if final.code == CodeDeniedAddress {
		r := worst(s.facts.hits)
		d.Range = &r
		if len(s.facts.pins) > 0 {
			d.Code = CodeNameToDenied
		}
	}
	d.Why = s.why(d)
	return d
}

// byDefault is the outcome where no rule is met.
func (s *search) byDefault() *candidate {
	c := &candidate{-1, s.policy.defaultAction(), CodeDefault}
	switch {
	case len(s.facts.hits) > 0:
		c.action, c.code = Deny, cmp.Or(s.nearCode, CodeDeniedAddress)
	case c.action != Deny && s.facts.special() != "":
		c.action, c.code = Deny, CodeSpecialName
	case c.action == Deny && s.near >= 0:
		c.code = s.nearCode
	}
	return c
}

func (s *search) more(dial bool) Decision {
	f, first := s.facts, s.later[0].rule
	d := Decision{Action: More, Rule: first, RuleID: s.policy.rules[first].id, Code: CodeMore, Need: NeedBytes, Dial: dial}
	if f.App != "" {
		d.Need = NeedHTTP
	}
	what := "the client's first bytes"
	if d.Need == NeedHTTP {
		what = "the HTTP request"
	}
	d.Why = fmt.Sprintf("%s must be seen to know whether rule %s is met.", what, d.RuleID)
	d.Why = strings.ToUpper(d.Why[:1]) + d.Why[1:]
	return d
}
