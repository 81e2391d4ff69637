package egress

import (
	"fmt"
	"strings"
	"time"
)

// Explain says a policy in words, a sentence a line: what each rule does, and
// what a reader may not expect of it.
func (p *Policy) Explain(now time.Time) []string {
	var lines []string
	for i := range p.rules {
		lines = append(lines, p.explainRule(i, now))
		lines = append(lines, p.surprises(i)...)
	}
	last := "Everything else"
	if len(p.rules) == 0 {
		last = "Everything"
	}
	switch p.defaultAction() {
	case Allow:
		lines = append(lines, last+" in the public internet is allowed.")
	case Ask:
		lines = append(lines, last+" in the public internet is held until somebody answers.")
	default:
		lines = append(lines, last+" is denied.")
	}
	return lines
}

func (p *Policy) explainRule(i int, now time.Time) string {
	r, c := p.doc.Rules[i], &p.rules[i]
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s ", r.ID, map[Action]string{Allow: "allow", Deny: "deny", Ask: "ask about"}[r.Action])
	if c.http() {
		b.WriteString("HTTP requests ")
		if len(r.Methods) > 0 {
			fmt.Fprintf(&b, "(%s) ", strings.Join(r.Methods, ", "))
		}
		if len(r.Paths) > 0 {
			fmt.Fprintf(&b, "for %s ", strings.Join(r.Paths, ", "))
		}
	} else {
		fmt.Fprintf(&b, "%s ", strings.Join(c.protocols(), ", "))
	}
	b.WriteString("to " + leadsTo(r))
	if len(r.Ports) > 0 {
		fmt.Fprintf(&b, " on ports %s", strings.Join(r.Ports, ", "))
	}
	switch {
	case r.Expires.IsZero():
	case c.live(now):
		fmt.Fprintf(&b, " until %s", r.Expires.Format(time.RFC3339))
	default:
		fmt.Fprintf(&b, " (expired %s)", r.Expires.Format(time.RFC3339))
	}
	return b.String() + "."
}

func (c *rule) protocols() []string {
	var list []string
	for _, p := range []string{TCP, UDP, ICMP} {
		if c.protocol(p) {
			list = append(list, p)
		}
	}
	return list
}

func leadsTo(r Rule) string {
	names := append(append([]string{}, r.Domains...), prefixed("group ", r.Groups)...)
	switch {
	case len(names) == 0 && len(r.CIDRs) == 0 && r.Action != Deny:
		return "any public address"
	case len(names) == 0 && len(r.CIDRs) == 0:
		return "anything"
	case len(names) == 0:
		return strings.Join(r.CIDRs, ", ")
	case len(r.CIDRs) == 0:
		return strings.Join(names, ", ")
	}
	return strings.Join(names, ", ") + " where its address is in " + strings.Join(r.CIDRs, ", ")
}

func prefixed(prefix string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = prefix + s
	}
	return out
}

// surprises says what a rule does that its words may hide.
func (p *Policy) surprises(i int) []string {
	r, c := p.doc.Rules[i], &p.rules[i]
	var lines []string
	say := func(format string, args ...any) {
		lines = append(lines, "  note: "+fmt.Sprintf(format, args...))
	}
	if c.http() {
		say("TLS to these names is opened by smolvm, with a certificate authority of the sandbox's own.")
	}
	if !c.opens() {
		return lines
	}
	for _, h := range c.hosts[:len(r.Domains)] {
		if h.shared() {
			say("the names below %s belong to many owners.", h.name)
		}
	}
	for _, name := range r.Groups {
		if g := groups()[name]; g.Risk != "" {
			say("group %s: %s.", name, g.Risk)
		}
	}
	for _, prefix := range c.cidrs {
		for _, special := range ranges {
			if special.Name != unassigned && prefix.Bits() > 0 && prefix.Bits() < special.Prefix.Bits() && prefix.Contains(special.Prefix.Addr()) {
				say("%s does not open %s (%s) within it.", prefix, special.Prefix, special.Name)
			}
		}
	}
	return lines
}
