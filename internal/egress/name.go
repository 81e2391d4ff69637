package egress

import (
	"fmt"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

const (
	maxName  = 253 // RFC 1035 section 2.3.4, as text without the last dot
	maxLabel = 63
)

// profile maps what people type to what is asked of DNS, by the rules browsers
// use (UTS 46, non-transitional). Letters are checked by checkName, which also
// allows the underscores of service names.
var profile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.Transitional(false))

// NormalName returns a name as rules see it: ASCII, lower case, no last dot.
// An address in any spelling is no name.
func NormalName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 4*maxName {
		return "", fmt.Errorf("a name has at most %d characters", maxName)
	}
	if !ascii(s) {
		a, err := profile.ToASCII(s)
		if err != nil {
			return "", fmt.Errorf("%q is no valid international name", s)
		}
		s = a
	}
	s = strings.ToLower(s)
	if err := checkName(s); err != nil {
		return "", err
	}
	return s, nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func checkName(s string) error {
	if s == "" {
		return fmt.Errorf("a name is missing")
	}
	if looksNumeric(s) {
		return fmt.Errorf("%q is an address, not a name", s)
	}
	if len(s) > maxName {
		return fmt.Errorf("a name has at most %d characters", maxName)
	}
	for l := range strings.SplitSeq(s, ".") {
		if err := checkLabel(l); err != nil {
			return fmt.Errorf("name %q: %w", s, err)
		}
	}
	return nil
}

func checkLabel(l string) error {
	switch {
	case l == "":
		return fmt.Errorf("two dots, or one at the start")
	case len(l) > maxLabel:
		return fmt.Errorf("a part between dots has at most %d characters", maxLabel)
	case l[0] == '-' || l[len(l)-1] == '-':
		return fmt.Errorf("part %q begins or ends with a hyphen", l)
	}
	for i := range len(l) {
		c := l[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			continue
		}
		return fmt.Errorf("character %q", rune(c))
	}
	return nil
}

// specialNames are the names that mean something else on each network, or
// nothing at all. A rule must name them or something below them; "*", a default
// and rules without domains mean public names. The source of each is IANA's
// registry "Special-Use Domain Names" unless said otherwise.
var specialNames = []string{
	"localhost", "local", "invalid", "test", "onion", "alt", "home.arpa", "internal",
	"ipv4only.arpa", "resolver.arpa", "service.arpa", "eap.arpa",
	"10.in-addr.arpa", "127.in-addr.arpa", "168.192.in-addr.arpa", "254.169.in-addr.arpa", // RFC 6761, 6762, 6303
	"16.172.in-addr.arpa", "17.172.in-addr.arpa", "18.172.in-addr.arpa", "19.172.in-addr.arpa",
	"20.172.in-addr.arpa", "21.172.in-addr.arpa", "22.172.in-addr.arpa", "23.172.in-addr.arpa",
	"24.172.in-addr.arpa", "25.172.in-addr.arpa", "26.172.in-addr.arpa", "27.172.in-addr.arpa",
	"28.172.in-addr.arpa", "29.172.in-addr.arpa", "30.172.in-addr.arpa", "31.172.in-addr.arpa",
	"c.f.ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa",
	// Not registered, but what routers and companies use: ICANN will not delegate
	// the first three (resolution 2018.02.04.12); the others do not exist in the root.
	"corp", "home", "mail", "lan", "localdomain", "intranet", "private",
}

// specialName returns the special name that a normal name is or lies below, or
// the name itself where it has one label; empty for a public name.
func specialName(name string) string {
	if s := listedSpecial(name); s != "" || strings.Contains(name, ".") {
		return s
	}
	return name
}

func listedSpecial(name string) string {
	for _, s := range specialNames {
		if belowName(name, s) {
			return s
		}
	}
	return ""
}

// belowName reports whether name is base or lies below it.
func belowName(name, base string) bool {
	rest, ok := strings.CutSuffix(name, base)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}

// pattern is a domain of a rule: any name, an exact one, or all below a suffix.
type pattern struct {
	name   string // "" for any
	suffix bool   // all below name, not name itself
}

func (p pattern) any() bool { return p.name == "" }

func (p pattern) match(name string) bool {
	switch {
	case p.any():
		return specialName(name) == ""
	case p.suffix:
		rest, ok := strings.CutSuffix(name, p.name)
		return ok && strings.HasSuffix(rest, ".")
	}
	return name == p.name
}

func (p pattern) String() string {
	switch {
	case p.any():
		return "*"
	case p.suffix:
		return "*." + p.name
	}
	return p.name
}

// parsePattern reads a domain of a rule. Opening rules may not cover a whole
// public suffix: "*.com" is not a list of who is trusted.
func parsePattern(s string, opens bool) (pattern, error) {
	if s == "*" {
		return pattern{}, nil
	}
	base, suffix := strings.CutPrefix(s, "*.")
	switch {
	case strings.Contains(base, "*"):
		return pattern{}, fmt.Errorf("domain %q: a star stands alone or in front (*.example.com)", s)
	case strings.HasPrefix(s, "."):
		return pattern{}, fmt.Errorf("domain %q: write *%s for the names below, %s for the name itself", s, s, s[1:])
	case strings.Contains(base, "://"), strings.Contains(base, "/") && !looksLikePrefix(base):
		return pattern{}, fmt.Errorf("domain %q is a URL: write its host here and its path in paths", s)
	}
	if a, ok := ParseAddr(base); ok {
		return pattern{}, fmt.Errorf("domain %q is an address: write %s in cidrs", s, a)
	}
	if looksLikePrefix(base) {
		return pattern{}, fmt.Errorf("domain %q is an address range: write it in cidrs", s)
	}
	if host, port, ok := strings.Cut(base, ":"); ok {
		return pattern{}, fmt.Errorf("domain %q: write %s here and %s in ports", s, host, port)
	}
	name, err := NormalName(base)
	if err != nil {
		return pattern{}, fmt.Errorf("domain %q: %w", s, err)
	}
	p := pattern{name, suffix}
	return p, p.checkWidth(s, opens)
}

func looksLikePrefix(s string) bool {
	addr, bits, ok := strings.Cut(s, "/")
	_, isAddr := ParseAddr(addr)
	return ok && isAddr && bits != ""
}

func (p pattern) checkWidth(s string, opens bool) error {
	if !strings.Contains(p.name, ".") && !p.suffix {
		return fmt.Errorf("domain %q has no dot: write the whole name, as DNS knows it", s)
	}
	if !p.suffix || !opens || listedSpecial(p.name) != "" {
		return nil
	}
	if ps, icann := publicsuffix.PublicSuffix(p.name); ps == p.name && (icann || !strings.Contains(ps, ".")) {
		return fmt.Errorf("domain %q covers everybody's names below .%s: name the ones you mean, or write \"*\" for any", s, ps)
	}
	return nil
}

// shared reports whether the names below a suffix belong to many owners.
func (p pattern) shared() bool {
	if !p.suffix {
		return false
	}
	ps, icann := publicsuffix.PublicSuffix(p.name)
	return ps == p.name && !icann && strings.Contains(ps, ".")
}
