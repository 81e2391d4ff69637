package egress

import (
	"fmt"
	"slices"
	"strings"
)

// dnsTypes are the types that are asked for. HTTPS and SVCB are missing: they
// carry the keys of encrypted client hellos, which would hide names from rules.
// So are zone transfers, ANY, and types whose only use today is tunnelling.
var dnsTypes = []string{
	"A", "AAAA", "CNAME", "MX", "TXT", "SRV", "NS", "SOA", "PTR", "CAA", "NAPTR", "URI", "TLSA", "SSHFP",
	"DS", "DNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM",
}

// decideDNS says whether a question may be asked upstream. Allow: some flow to
// the name may be allowed. Ask: only after asking; nothing should leave before,
// since the question itself tells the name to its servers.
func decideDNS(p *Policy, r Request) Decision {
	bad := func(c Code, why string) Decision {
		return Decision{Action: Deny, Rule: -1, Code: c, Why: why + "."}
	}
	if !ascii(r.Question) {
		return bad(CodeBadName, "The question is not a host name")
	}
	name, err := NormalName(r.Question)
	if err != nil {
		return bad(CodeBadName, "The question is not a host name: "+err.Error())
	}
	at, a := p.firstResolving(name, r)
	if a != "" {
		d := Decision{Action: a, Rule: at, RuleID: p.rules[at].id, Code: CodeRule}
		d.Why = fmt.Sprintf("Rule %s %s %s.", d.RuleID, third(a), name)
		return checkType(d, name, r.Type)
	}
	d := Decision{Action: p.defaultAction(), Rule: -1, Code: CodeDefault}
	d.Why = fmt.Sprintf("No rule is about %s, and the default is %s.", name, d.Action)
	if s := specialName(name); s != "" && d.Action != Deny {
		return bad(CodeSpecialName, name+" is not a public name; only a rule with that name in its domains opens it")
	}
	return checkType(d, name, r.Type)
}

// firstResolving returns the rule that decides about a name, and what it says;
// empty: none does. A rule that asks about some flows to the name alone yields to a
// later one, or to a default, that allows others: its own flows are asked about when they come.
func (p *Policy) firstResolving(name string, r Request) (int, Action) {
	at, asks := -1, Action("")
	for i := range p.rules {
		a := p.rules[i].resolves(name, r)
		switch {
		case a == "":
			continue
		case a == Ask && asks == "" && !p.rules[i].whole():
			at, asks = i, a
			continue
		case a != Allow && asks != "":
			return at, asks
		}
		return i, a
	}
	if asks != "" && p.defaultAction() == Allow && specialName(name) == "" {
		return -1, "" // the default allows the other flows
	}
	return at, asks
}

func checkType(d Decision, name, qtype string) Decision {
	qtype = strings.ToUpper(qtype)
	if d.Action == Deny || slices.Contains(dnsTypes, qtype) {
		return d
	}
	why := fmt.Sprintf("Questions of type %s for %s are answered empty.", clean(qtype), name)
	if qtype == "HTTPS" || qtype == "SVCB" {
		why = fmt.Sprintf("Questions of type %s for %s are answered empty: they would let clients hide names from rules.", qtype, name)
	}
	return Decision{Action: Deny, Rule: d.Rule, RuleID: d.RuleID, Code: CodeDNSType, Why: why}
}

// resolves returns what a rule says to a name being asked for; empty: nothing.
// A rule that denies counts only if it denies every flow to the name, a rule
// that opens if it opens any. Rules with CIDRs alone are about bare addresses.
func (r *rule) resolves(name string, q Request) Action {
	switch {
	case !r.live(q.At):
		return ""
	case r.action == Deny && !r.whole():
		return ""
	case len(r.hosts) == 0 && len(r.cidrs) > 0:
		return ""
	case len(r.hosts) == 0:
		if r.opens() && specialName(name) != "" {
			return ""
		}
		return r.action
	}
	for i := range r.hosts {
		h := &r.hosts[i]
		if r.opens() && h.match(name) || !r.opens() && (h.any() || h.match(name)) && len(h.ports) == 0 {
			return r.action
		}
	}
	return ""
}

// whole reports whether a rule holds for every flow to its names.
func (r *rule) whole() bool {
	return len(r.ports) == 0 && r.tcp && r.udp && r.icmp && !r.http() && len(r.cidrs) == 0
}
