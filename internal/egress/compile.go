package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Bounds of a policy.
const (
	MaxBytes    = 256 << 10 // of its text
	MaxRules    = 1000
	maxPerList  = 1000  // entries of one list of a rule
	maxPatterns = 20000 // domains of all rules, those of groups included
	maxNote     = 500
	maxID       = 64
)

// rule is a Rule ready to be matched.
type rule struct {
	id     string
	action Action
	hosts  []host // no hosts: any destination, or CIDRs alone
	cidrs  []netip.Prefix
	ports  []portRange
	tcp    bool
	udp    bool
	icmp   bool
	// implicit: the protocols were not said.
	implicit bool
	methods  []string
	paths    []pathPattern
	expires  time.Time
}

// host is a domain with the ports that come with its group.
type host struct {
	pattern
	ports []portRange
}

// A rule that opens must be sure, a rule that guards must not be escaped. One
// that asks does both.
func (r *rule) opens() bool  { return r.action != Deny }
func (r *rule) guards() bool { return r.action != Allow }
func (r *rule) http() bool   { return len(r.methods) > 0 || len(r.paths) > 0 }
func (r *rule) live(at time.Time) bool {
	return r.expires.IsZero() || at.Before(r.expires)
}

// fieldError is what is wrong with one field of a rule, so that Parse can say
// on which line it stands.
type fieldError struct {
	rule  int // -1: of the document
	field string
	index int // within a list; -1: the whole field
	err   error
}

func (e *fieldError) Error() string {
	if e.rule < 0 {
		return e.err.Error()
	}
	return fmt.Sprintf("rule %d: %v", e.rule+1, e.err)
}

func (e *fieldError) Unwrap() error { return e.err }

// New makes a policy of a document. An error is of class invalid and names the
// rule and what to write instead. Rules without an ID are given one.
func New(d Document) (*Policy, error) {
	p, bad := compile(d)
	if bad != nil {
		return nil, api.Errorf(api.Invalid, "network policy: %w", bad)
	}
	return p, nil
}

func compile(d Document) (*Policy, *fieldError) {
	if bad := checkDocument(d); bad != nil {
		return nil, bad
	}
	p := &Policy{doc: d}
	p.doc.Rules = nil
	ids, bad := giveIDs(d.Rules)
	if bad != nil {
		return nil, bad
	}
	patterns := 0
	for i, r := range d.Rules {
		r = clone(r)
		r.ID = ids[i]
		c, bad := compileRule(&r)
		if bad != nil {
			bad.rule = i
			return nil, bad
		}
		if patterns += len(c.hosts); patterns > maxPatterns {
			return nil, &fieldError{i, "domains", -1, fmt.Errorf("a policy has at most %d domains, those of groups included", maxPatterns)}
		}
		p.doc.Rules, p.rules = append(p.doc.Rules, r), append(p.rules, c)
	}
	return p, nil
}

func checkDocument(d Document) *fieldError {
	bad := func(field, format string, args ...any) *fieldError {
		return &fieldError{-1, field, -1, fmt.Errorf(format, args...)}
	}
	switch d.Default {
	case "", Allow, Deny, Ask:
	default:
		return bad("default", "default %q: write allow, deny or ask", d.Default)
	}
	switch d.ECH {
	case "", ECHDeny, ECHOuter:
	default:
		return bad("ech", "ech %q: write %s or %s", d.ECH, ECHDeny, ECHOuter)
	}
	if d.Version != 0 && d.Version != 1 {
		return bad("version", "version %d: this smolvm knows version 1", d.Version)
	}
	if len(d.Rules) > MaxRules {
		return bad("rules", "%d rules: a policy has at most %d", len(d.Rules), MaxRules)
	}
	return nil
}

// giveIDs returns the IDs of rules, new ones for those without: the first free
// of r1, r2, ...
func giveIDs(rules []Rule) ([]string, *fieldError) {
	ids, taken := make([]string, len(rules)), map[string]bool{}
	for i, r := range rules {
		switch {
		case r.ID == "":
			continue
		case !validID(r.ID):
			return nil, &fieldError{i, "id", -1, fmt.Errorf("id %q: at most %d letters, digits, and . _ -", r.ID, maxID)}
		case taken[r.ID]:
			return nil, &fieldError{i, "id", -1, fmt.Errorf("id %q is taken by a rule before", r.ID)}
		}
		ids[i], taken[r.ID] = r.ID, true
	}
	n := 1
	for i := range ids {
		for ids[i] == "" {
			if id := fmt.Sprintf("r%d", n); !taken[id] {
				ids[i], taken[id] = id, true
			}
			n++
		}
	}
	return ids, nil
}

func validID(id string) bool {
	return len(id) <= maxID && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

// compileRule checks a rule, writes its lists in their normal form and returns
// what matches it.
func compileRule(r *Rule) (rule, *fieldError) {
	c := rule{id: r.ID, action: r.Action, expires: r.Expires}
	if r.Action != Allow && r.Action != Deny && r.Action != Ask {
		return c, &fieldError{0, "action", -1, fmt.Errorf("action %q: write allow, deny or ask", r.Action)}
	}
	for _, step := range []func(*Rule, *rule) *fieldError{
		checkText, compilePorts, compileDomains, compileGroups, compileCIDRs, compileProtocols, compileMethods, compilePaths, checkTogether,
	} {
		if bad := step(r, &c); bad != nil {
			return c, bad
		}
	}
	return c, nil
}

func checkText(r *Rule, _ *rule) *fieldError {
	if len(r.Note) > maxNote || hasControl(r.Note) {
		return &fieldError{0, "note", -1, fmt.Errorf("a note is one line of at most %d bytes", maxNote)}
	}
	if y := r.Expires.Year(); !r.Expires.IsZero() && (y < 1970 || y > 9999) {
		return &fieldError{0, "expires", -1, fmt.Errorf("expires: the year %d makes no sense", y)}
	}
	r.Expires = r.Expires.UTC().Truncate(time.Second)
	return nil
}

// each bounds a list and calls f with each entry.
func each(field string, list []string, f func(i int, s string) error) *fieldError {
	if len(list) > maxPerList {
		return &fieldError{0, field, -1, fmt.Errorf("%s has %d entries: at most %d", field, len(list), maxPerList)}
	}
	for i, s := range list {
		if err := f(i, s); err != nil {
			return &fieldError{0, field, i, err}
		}
	}
	return nil
}

func compilePorts(r *Rule, c *rule) *fieldError {
	return each("ports", r.Ports, func(i int, s string) error {
		p, err := parsePorts(s)
		c.ports = append(c.ports, p)
		r.Ports[i] = p.String()
		return err
	})
}

func compileDomains(r *Rule, c *rule) *fieldError {
	return each("domains", r.Domains, func(i int, s string) error {
		p, err := parsePattern(s, r.Action != Deny)
		c.hosts = append(c.hosts, host{pattern: p})
		r.Domains[i] = p.String()
		return err
	})
}

func compileGroups(r *Rule, c *rule) *fieldError {
	return each("groups", r.Groups, func(_ int, s string) error {
		g, ok := groups()[s]
		if !ok {
			return fmt.Errorf("group %q does not exist; there are %s", s, strings.Join(GroupNames(), ", "))
		}
		c.hosts = append(c.hosts, g.hosts...)
		return nil
	})
}

func compileCIDRs(r *Rule, c *rule) *fieldError {
	return each("cidrs", r.CIDRs, func(i int, s string) error {
		p, err := parseCIDR(s)
		c.cidrs = append(c.cidrs, p)
		if err == nil && p.IsSingleIP() {
			r.CIDRs[i] = p.Addr().String()
		} else {
			r.CIDRs[i] = p.String()
		}
		return err
	})
}

// parseCIDR reads a prefix or an address in its one usual spelling. The odd
// ones mean different things to different programs, so they mean nothing here.
func parseCIDR(s string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	if odd, ok := ParseAddr(s); ok {
		return netip.Prefix{}, fmt.Errorf("cidr %q: write %s", s, odd)
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("cidr %q: write an address or a range such as 203.0.113.0/24 or 2001:db8::/32", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("cidr %q: write it as IPv4", s)
	case p.Masked() != p:
		return p, fmt.Errorf("cidr %q has bits behind its length: write %s, or %s alone", s, p.Masked(), p.Addr())
	}
	return p, nil
}

func compileProtocols(r *Rule, c *rule) *fieldError {
	if bad := each("protocols", r.Protocols, func(i int, s string) error {
		s = strings.ToLower(s)
		r.Protocols[i] = s
		switch s {
		case TCP:
			c.tcp = true
		case UDP:
			c.udp = true
		case ICMP:
			c.icmp = true
		case DNS:
			return fmt.Errorf("protocol dns: DNS questions follow the domains of rules; there is nothing to set")
		default:
			return fmt.Errorf("protocol %q: write tcp, udp or icmp", s)
		}
		return nil
	}); bad != nil {
		return bad
	}
	if len(r.Protocols) > 0 {
		return nil
	}
	named := len(r.Domains) > 0 || len(r.Groups) > 0
	http := len(r.Methods) > 0 || len(r.Paths) > 0
	c.tcp, c.implicit = true, true
	c.udp = !http && (r.Action != Allow || !named)
	c.icmp = c.udp && len(r.Ports) == 0
	return nil
}

func compileMethods(r *Rule, c *rule) *fieldError {
	return each("methods", r.Methods, func(i int, s string) error {
		if s == "" || len(s) > 32 || strings.ContainsFunc(s, func(r rune) bool {
			return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '-' && r != '_'
		}) {
			return fmt.Errorf("method %q: write GET, POST, ...; leave methods out for all", s)
		}
		r.Methods[i] = strings.ToUpper(s)
		c.methods = append(c.methods, r.Methods[i])
		return nil
	})
}

func compilePaths(r *Rule, c *rule) *fieldError {
	return each("paths", r.Paths, func(_ int, s string) error {
		p, err := parsePath(s)
		c.paths = append(c.paths, p)
		return err
	})
}

// checkTogether refuses conditions that cannot be enforced together.
func checkTogether(r *Rule, c *rule) *fieldError {
	bad := func(field, format string, args ...any) *fieldError {
		return &fieldError{0, field, -1, fmt.Errorf(format, args...)}
	}
	field := "methods"
	if len(r.Methods) == 0 {
		field = "paths"
	}
	switch {
	case c.http() && len(c.hosts) == 0:
		return bad(field, "%s need domains: a connection can only be opened for a name; for any name write domains: [\"*\"]", field)
	case c.http() && (c.udp || c.icmp):
		return bad("protocols", "%s are of HTTP over tcp: leave protocols out, or write [tcp]", field)
	case c.icmp && len(r.Protocols) > 0 && len(c.ports) > 0:
		return bad("ports", "icmp has no ports: write a rule of its own for it")
	case slices.Contains(c.ports, portRange{53, 53}):
		return bad("ports", "port 53 is answered by smolvm itself, whatever the server: names resolve where a rule allows them")
	}
	return nil
}
