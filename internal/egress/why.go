package egress

import (
	"fmt"
	"strconv"
	"strings"
)

// why says a decision as a sentence.
func (s *search) why(d Decision) string {
	f, to := s.facts, s.destination()
	id := d.RuleID
	if s.near >= 0 && d.Rule < 0 {
		id = s.policy.rules[s.near].id
	}
	switch d.Code {
	case CodeRule:
		return fmt.Sprintf("Rule %s %s %s.", id, third(d.Action), to)
	case CodeDefault:
		return fmt.Sprintf("No rule is about %s, and the default is %s.", to, d.Action)
	case CodeDeniedAddress:
		return fmt.Sprintf("%s is %s (%s), which only a rule with that address in its cidrs opens.", f.forms[0], article(d.Range.Name), d.Range.Prefix)
	case CodeNameToDenied:
		return fmt.Sprintf("%s leads to %s, which is %s (%s); only a rule with that address in its cidrs opens it.", strings.Join(f.pins, ", "), f.forms[0], article(d.Range.Name), d.Range.Prefix)
	case CodeSpecialName:
		return fmt.Sprintf("%s is not a public name; only a rule with that name in its domains opens it.", f.special())
	}
	return fmt.Sprintf("%s is not allowed: %s.", to, s.reason(d.Code, id))
}

// reason says why a rule does not open a flow, or guards it.
func (s *search) reason(c Code, id string) string {
	f := s.facts
	switch c {
	case CodePort:
		return fmt.Sprintf("rule %s is not about port %d", id, f.Port)
	case CodeProtocol:
		return fmt.Sprintf("rule %s is not about %s", id, f.Protocol)
	case CodeExpired:
		return fmt.Sprintf("rule %s has expired", id)
	case CodeAddress:
		return fmt.Sprintf("its address %s is not among the cidrs of rule %s", f.forms[0], id)
	case CodeMethod:
		return fmt.Sprintf("rule %s is not about method %s", id, clean(f.HTTP.Method))
	case CodePath:
		return fmt.Sprintf("rule %s is not about path %s", id, clean(f.HTTP.Path))
	case CodeNotHTTP:
		return fmt.Sprintf("rule %s is about HTTP requests, and this is not HTTP", id)
	case CodeBareAddress:
		return fmt.Sprintf("it was reached by a bare address, and rule %s is about names; allow the address in cidrs, or use the name", id)
	case CodeAmbiguous:
		return fmt.Sprintf("its address has several names (%s), and nothing shows which one rule %s should be about", strings.Join(f.pins, ", "), id)
	case CodeNoSNI:
		return fmt.Sprintf("the TLS client sent no server name, and rule %s is about names", id)
	case CodeECH:
		return fmt.Sprintf("the TLS client may hide the real name (encrypted client hello), and rule %s is about names", id)
	case CodeSNIMismatch:
		return fmt.Sprintf("the TLS client asks for %s at the address of %s", f.claim, strings.Join(f.pins, ", "))
	case CodeHostMismatch:
		return fmt.Sprintf("the HTTP request asks for %s on a connection to %s", clean(f.HTTP.Host), strings.Join(f.pins, ", "))
	case CodeQUIC:
		return fmt.Sprintf("HTTP/3 over udp hides what rule %s must know; clients use HTTP/2 over tcp instead", id)
	}
	return string(c)
}

// destination says where a flow goes.
func (s *search) destination() string {
	f := s.facts
	who := f.name
	if who == "" {
		who = strings.Join(f.pins, ", ")
	}
	if who == "" {
		who = f.forms[0].String()
	}
	if f.HTTP != nil {
		return fmt.Sprintf("%s %s %s", clean(f.HTTP.Method), who, clean(f.HTTP.Path))
	}
	if f.Protocol == ICMP {
		return who + " icmp"
	}
	return fmt.Sprintf("%s %s port %d", who, f.Protocol, f.Port)
}

func third(a Action) string {
	switch a {
	case Allow:
		return "allows"
	case Deny:
		return "denies"
	}
	return "asks about"
}

func article(name string) string {
	if strings.ContainsAny(name[:1], "aeiou") {
		return "an " + name + " address"
	}
	if name == "this host" {
		return "an address of this host"
	}
	return "a " + name + " address"
}

// clean makes what a guest sent fit for logs and terminals.
func clean(s string) string {
	const most = 300
	cut := ""
	if len(s) > most {
		s, cut = s[:most], "..."
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return strconv.Quote(s) + cut
		}
	}
	return s + cut
}
