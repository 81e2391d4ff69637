package egress

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DecideAddress says whether an address may be an answer to a name, and be
// dialled for it: Allow or Deny. Whether a flow may use it is for Decide. An
// address that is not public needs a rule that names it and is about the name.
func DecideAddress(p *Policy, h *Host, name string, addr netip.Addr, at time.Time) Decision {
	bad := Decision{Action: Deny, Rule: -1, Code: CodeBadRequest, Why: "There is no such address."}
	name, err := NormalName(name)
	if err != nil {
		bad.Code, bad.Why = CodeBadName, err.Error()+"."
		return bad
	}
	if !addr.IsValid() {
		return bad
	}
	f := &facts{forms: h.forms(addr), pins: []string{name}}
	if f.hits = h.hits(f.forms); len(f.hits) == 0 {
		return Decision{Action: Allow, Rule: -1, Code: CodeDefault, Why: addr.String() + " is a public address."}
	}
	for i := range p.rules {
		r := &p.rules[i]
		about := len(r.hosts) == 0 || slices.ContainsFunc(r.hosts, func(h host) bool { return h.match(name) })
		if r.opens() && r.live(at) && about && r.namesAll(f) {
			return Decision{Action: Allow, Rule: i, RuleID: r.id, Code: CodeRule, Why: "Rule " + r.id + " names " + addr.String() + "."}
		}
	}
	s := &search{policy: p, facts: f, near: -1}
	s.final = &candidate{-1, Deny, CodeDeniedAddress}
	return s.decision()
}

// RuleFor returns the narrowest rule that allows what was asked about, to be put
// in front of the others when the answer is yes: name, port and protocol; of an
// HTTP request its method and path too; the address where no name counts. For a
// DNS question it is the name on the ports of the web.
func RuleFor(p *Policy, h *Host, r Request) (Rule, bool) {
	rule := Rule{Action: Allow, Protocols: []string{r.Protocol}}
	if r.Protocol == DNS {
		name, err := NormalName(r.Question)
		rule.Domains, rule.Ports, rule.Protocols = []string{name}, []string{"80", "443"}, []string{TCP}
		return rule, err == nil
	}
	f, _, _ := look(p, h, r)
	if f == nil {
		return Rule{}, false
	}
	if r.Protocol != ICMP {
		rule.Ports = []string{strconv.Itoa(int(r.Port))}
	}
	switch {
	case f.name != "":
		rule.Domains = []string{f.name}
	case f.open:
		rule.Domains = f.pins[:1] // if it turns out to be another, it is asked about anew
	}
	if len(rule.Domains) == 0 || len(f.hits) > 0 {
		for _, a := range f.forms {
			rule.CIDRs = append(rule.CIDRs, a.String())
		}
	}
	if r.HTTP != nil && f.name != "" {
		rule.Methods = []string{r.HTTP.Method}
		if len(f.paths) == 1 && !strings.ContainsAny(f.paths[0], "*?#% ") {
			rule.Paths = []string{"=" + f.paths[0]}
		}
	}
	return rule, true
}
