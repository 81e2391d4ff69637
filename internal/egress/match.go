package egress

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// verdict says whether a rule is met.
type verdict int

const (
	no    verdict = iota
	later         // the next step of the flow will show it
	maybe         // nothing will ever show it
	yes
)

// match compares a rule with a flow. With no, the code says which condition
// failed; empty: the rule is about something else. With maybe, it says what
// cannot be known.
func (r *rule) match(f *facts) (verdict, Code) {
	v, code := r.matchName(f)
	if v == no {
		return no, code
	}
	if ok, code := r.matchAddr(f); !ok {
		return no, code
	}
	if !inPorts(r.ports, f.Port) && f.Protocol != ICMP {
		return no, CodePort
	}
	hidesHTTP := f.quic && r.guards() && r.http()
	if !hidesHTTP && !r.protocol(f.Protocol) {
		if f.quic {
			return no, CodeQUIC
		}
		return no, CodeProtocol
	}
	if !r.live(f.At) {
		return no, CodeExpired
	}
	w, why := r.matchHTTP(f)
	if w < v {
		v, code = w, why
	}
	if v == yes && f.quic && r.action == Ask && r.implicit && len(r.hosts) > 0 {
		return maybe, CodeQUIC // asked about once, as TCP
	}
	return v, code
}

func (r *rule) protocol(name string) bool {
	return name == TCP && r.tcp || name == UDP && r.udp || name == ICMP && r.icmp
}

// matchName compares the domains of a rule with the name that counts.
func (r *rule) matchName(f *facts) (verdict, Code) {
	switch {
	case len(r.hosts) == 0 && len(r.cidrs) == 0 && r.opens() && f.special() != "":
		return no, CodeSpecialName
	case len(r.hosts) == 0:
		return yes, ""
	case r.guards():
		return r.guardsName(f)
	}
	if f.name != "" {
		if ok, miss := r.covers(f.name, f.Port); !ok {
			return no, miss
		}
		return yes, ""
	}
	some, all, miss := r.ofPins(f)
	claimed, _ := r.covers(f.claim, f.Port)
	switch {
	case f.hidden == CodeBareAddress:
		return no, CodeBareAddress
	case all && (r.anyName() || !f.open && f.hidden == ""):
		return yes, "" // whichever of its names it is
	case f.hidden != "" && (some || claimed):
		return no, f.hidden
	case some && f.open:
		return later, ""
	case some:
		return no, CodeAmbiguous
	}
	return no, miss
}

// guardsName is matchName for rules that deny or ask: what may be the name
// counts, as far as it must.
func (r *rule) guardsName(f *facts) (verdict, Code) {
	some, all, miss := r.ofPins(f)
	if !r.portsFor(f.Port) {
		return no, miss
	}
	claimed, _ := r.covers(f.claim, f.Port)
	known, _ := r.covers(f.name, f.Port)
	switch {
	case known:
		return yes, ""
	case f.name != "" && f.quic:
		return maybe, CodeQUIC
	case f.name != "":
		return no, ""
	case r.action == Deny && (claimed || all):
		return yes, ""
	case f.open && r.action == Ask && some && !r.http():
		return yes, "" // the answer allows a name, which is then checked like any other
	case f.open && r.action == Ask && !some:
		return later, CodeSNIMismatch // never yes: the name will be none of the pins
	case f.open:
		return later, ""
	case f.hidden == "" && all:
		return yes, ""
	case f.quic && !some && len(f.pins) > 0:
		return maybe, CodeQUIC
	case f.hidden == "" && some:
		return maybe, CodeAmbiguous
	case f.hidden == "":
		return no, ""
	case f.hidden == CodeSNIMismatch || f.hidden == CodeHostMismatch:
		// The server is that of the pins, the site that of the claim.
		if !some && !claimed {
			return no, ""
		}
	}
	return maybe, f.hidden
}

// ofPins reports whether the rule covers some and all names of the address; if
// none, whether it was for the port alone.
func (r *rule) ofPins(f *facts) (some, all bool, miss Code) {
	all = len(f.pins) > 0
	for _, n := range f.pins {
		ok, code := r.covers(n, f.Port)
		some, all = some || ok, all && ok
		miss = cmp.Or(miss, code)
	}
	return some, all, miss
}

// covers reports whether one of the rule's domains is a name, on a port.
func (r *rule) covers(name string, port uint16) (bool, Code) {
	if name == "" {
		return false, ""
	}
	miss := Code("")
	for i := range r.hosts {
		h := &r.hosts[i]
		if !h.match(name) && (r.opens() || !h.any()) {
			continue
		}
		if len(r.ports) > 0 || inPorts(h.ports, port) {
			return true, ""
		}
		miss = CodePort
	}
	if miss == "" && r.anyName() && specialName(name) != "" {
		miss = CodeSpecialName
	}
	return false, miss
}

func (r *rule) anyName() bool {
	return slices.ContainsFunc(r.hosts, func(h host) bool { return h.any() })
}

// portsFor reports whether any of the rule's domains has a port.
func (r *rule) portsFor(port uint16) bool {
	return len(r.ports) > 0 || slices.ContainsFunc(r.hosts, func(h host) bool { return inPorts(h.ports, port) })
}

// matchAddr compares the CIDRs, and asks of a rule that opens that it names the
// ranges the address lies in.
func (r *rule) matchAddr(f *facts) (bool, Code) {
	if len(r.cidrs) > 0 && !slices.ContainsFunc(r.cidrs, func(p netip.Prefix) bool { return r.covered(p, f) }) {
		if len(r.hosts) == 0 {
			return false, ""
		}
		return false, CodeAddress
	}
	if r.opens() && !r.namesAll(f) {
		return false, CodeDeniedAddress
	}
	return true, ""
}

func (r *rule) namesAll(f *facts) bool {
	return !slices.ContainsFunc(f.hits, func(h hit) bool {
		return !slices.ContainsFunc(r.cidrs, func(p netip.Prefix) bool { return p.Contains(h.form) && names(p, h.Range) })
	})
}

// covered reports whether a prefix holds the address: to guard, in any spelling;
// to allow, as it is or by the translator that stands for IPv4.
func (r *rule) covered(p netip.Prefix, f *facts) bool {
	if p.Contains(f.forms[0]) {
		return true
	}
	return (r.guards() || wellKnownNAT64.Contains(f.forms[0])) && slices.ContainsFunc(f.forms, p.Contains)
}

// matchHTTP compares methods and paths.
func (r *rule) matchHTTP(f *facts) (verdict, Code) {
	switch {
	case !r.http():
		return yes, ""
	case f.HTTP != nil && f.name == "" && !r.guards():
		return no, f.hidden // "GET from any name" is about the name that is asked
	case f.HTTP != nil:
		if len(r.methods) > 0 && !r.method(f.HTTP.Method) {
			return no, CodeMethod
		}
		if !matchPaths(r.paths, f.paths, r.opens()) {
			return no, CodePath
		}
		return yes, ""
	case f.quic && r.guards():
		return maybe, CodeQUIC
	case f.Protocol != TCP || f.App == AppOther:
		return no, CodeNotHTTP
	case f.App == AppTLS && f.name == "":
		// There is no name to open the connection for.
		if r.guards() {
			return maybe, f.hidden
		}
		return no, f.hidden
	}
	return later, ""
}

// method compares methods. They have a case (RFC 9110 section 9.1), but some
// servers do not care.
func (r *rule) method(method string) bool {
	return slices.Contains(r.methods, method) ||
		r.guards() && slices.ContainsFunc(r.methods, func(m string) bool { return strings.EqualFold(m, method) })
}
