package egress

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// maker makes random policies and requests out of few values, so that they meet.
type maker struct{ *rand.Rand }

func newMaker(seed uint64) maker { return maker{rand.New(rand.NewPCG(seed, 4))} }

func (m maker) some(pool []string, most int) []string {
	n := m.IntN(most + 1)
	list := make([]string, 0, n)
	for range n {
		list = append(list, pool[m.IntN(len(pool))])
	}
	return list
}

func (m maker) one(pool []string) string { return pool[m.IntN(len(pool))] }

var (
	poolNames     = []string{"a.example.com", "b.example.com", "example.com", "a.example.org", "x.internal", "printer.local", "deep.a.example.com"}
	poolDomains   = append(slices.Clone(poolNames), "*.example.com", "*.a.example.com", "*", "*.internal")
	poolCIDRs     = []string{"93.184.216.34", "93.184.216.0/24", "10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "169.254.169.254", "127.0.0.1", "fd00::/8", "2606:2800::/32", "64:ff9b::/96", "2002::/16", "169.254.0.0/16", "100.64.0.0/10"}
	poolAddrs     = []string{"93.184.216.34", "93.184.217.1", "10.1.2.3", "10.2.2.3", "127.0.0.1", "169.254.169.254", "169.254.1.1", "fd00::1", "fd00:ec2::254", "2606:2800::1", "64:ff9b::a01:203", "64:ff9b::5db8:d822", "2002:a01:203::1", "::ffff:10.1.2.3", "100.100.100.200", "192.168.1.5", "224.0.0.1"}
	poolMethods   = []string{"GET", "POST", "DELETE"}
	poolPaths     = []string{"/v1", "/v1/*", "/**/x", "/"}
	poolWirePaths = []string{"/v1", "/v1/a", "/v1/../x", "/a/x", "/%2e%2e/x", "/"}
	poolPorts     = []string{"80", "443", "22", "1-1024"}
)

// policy makes a valid one: what is refused is made anew.
func (m maker) policy() *Policy {
	for {
		d := Document{Default: Action(m.one([]string{"allow", "deny", "ask"})), ECH: m.one([]string{ECHDeny, ECHOuter})}
		for range m.IntN(5) {
			r := Rule{
				Action:  Action(m.one([]string{"allow", "deny", "ask"})),
				Domains: m.some(poolDomains, 2), CIDRs: m.some(poolCIDRs, 2), Ports: m.some(poolPorts, 1),
			}
			if m.IntN(4) == 0 {
				r.Protocols = m.some([]string{"tcp", "udp", "icmp"}, 2)
			}
			if m.IntN(3) == 0 {
				r.Methods, r.Paths = m.some(poolMethods, 1), m.some(poolPaths, 1)
			}
			d.Rules = append(d.Rules, r)
		}
		if p, err := New(d); err == nil {
			return p
		}
	}
}

// flow makes what is known at the first packet.
func (m maker) flow() Request {
	r := Request{At: now, Protocol: m.one([]string{TCP, TCP, TCP, UDP, ICMP}), Addr: netip.MustParseAddr(m.one(poolAddrs))}
	r.Port = []uint16{80, 443, 22, 8080}[m.IntN(4)]
	r.Names = slices.Compact(slices.Sorted(slices.Values(m.some(poolNames, 2))))
	return r
}

// next shows a well-formed next step of a TCP flow.
func (m maker) next(r Request) Request {
	name := m.one(poolNames)
	if len(r.Names) > 0 && m.IntN(3) > 0 {
		name = m.one(r.Names)
	}
	switch {
	case r.Protocol != TCP:
	case r.App == "":
		r.App = []App{AppTLS, AppHTTP, AppOther}[m.IntN(3)]
		if r.App == AppTLS {
			r.TLS = &TLS{SNI: name, ECH: m.IntN(8) == 0}
			if m.IntN(8) == 0 {
				r.TLS.SNI = ""
			}
		}
	case r.HTTP == nil && r.App != AppOther:
		r.HTTP = &HTTP{Method: m.one(poolMethods), Host: name, Path: m.one(poolWirePaths)}
	}
	return r
}

const rounds = 10000

// TestEarlyDecisionsHold wants that a decision made early is the one that would
// be made with more knowledge, and that More is always worth it.
func TestEarlyDecisionsHold(t *testing.T) {
	m := newMaker(1)
	count := map[Action]int{}
	for range rounds {
		p, r := m.policy(), m.flow()
		d := Decide(p, corpusHost, r)
		checkDecision(t, "random", p, d)
		for step := range 2 {
			if r.Protocol != TCP {
				break
			}
			prev := r
			r = m.next(r)
			if prev.TLS != nil && r.HTTP != nil && d.Action != More {
				r.HTTP.Host = cmpOr(prev.TLS.SNI, r.HTTP.Host) // who is not asked cannot object
			}
			later := Decide(p, corpusHost, r)
			count[d.Action]++
			switch {
			case d.Action == Allow && later.Action != Allow:
				t.Fatalf("step %d: allowed (%s), then %+v\n%+v %+v %+v\n%s", step, d.Why, later, r, r.TLS, r.HTTP, p.YAML())
			case d.Action == Deny && later.Action == Allow && prev.TLS == nil:
				// Within TLS it may be so: a request shows what the hello hid, but TLS
				// without a certain name cannot be opened.
				t.Fatalf("step %d: denied (%s), then %+v\n%+v\n%s", step, d.Why, later, r, p.YAML())
			case (r.HTTP != nil || r.App == AppOther) && later.Action == More:
				t.Fatalf("all is known, and more is wanted: %+v\n%+v\n%s", later, r, p.YAML())
			}
			d = later
		}
	}
	if count[Allow] < rounds/100 || count[Deny] < rounds/100 || count[More] < rounds/100 {
		t.Errorf("too few of a kind: %v", count)
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// TestNothingSpecialIsOpenUnnamed is the promise of Range, checked by other
// means than those that keep it.
func TestNothingSpecialIsOpenUnnamed(t *testing.T) {
	m := newMaker(2)
	opened := 0
	for range rounds {
		p, r := m.policy(), m.flow()
		r = m.next(m.next(r))
		d := Decide(p, corpusHost, r)
		if d.Action == Deny {
			continue
		}
		for _, s := range Ranges() {
			if !s.Prefix.Contains(r.Addr.Unmap()) || s.Name == unassigned {
				continue
			}
			opened++
			if d.Action == More {
				continue
			}
			named := d.Rule >= 0 && slices.ContainsFunc(p.Document().Rules[d.Rule].CIDRs, func(c string) bool {
				prefix, err := netip.ParsePrefix(c)
				if err != nil {
					a := netip.MustParseAddr(c)
					prefix = netip.PrefixFrom(a, a.BitLen())
				}
				return prefix.Contains(r.Addr.Unmap()) && s.Prefix.Contains(prefix.Addr()) && prefix.Bits() >= s.Prefix.Bits()
			})
			if !named {
				t.Fatalf("%s is %s, and %+v\n%s", r.Addr, s.Name, d, p.YAML())
			}
		}
	}
	if opened < 30 {
		t.Errorf("only %d special addresses were opened by name: the test shows nothing", opened)
	}
}

// spellings returns addresses by which packets could end at an IPv4 address.
func spellings(a netip.Addr) []netip.Addr {
	v4 := a.As4()
	hex := fmt.Sprintf("%02x%02x:%02x%02x", v4[0], v4[1], v4[2], v4[3])
	inverted := fmt.Sprintf("%02x%02x:%02x%02x", ^v4[0], ^v4[1], ^v4[2], ^v4[3])
	list := []string{
		"::ffff:" + hex, "::ffff:0:" + hex, "64:ff9b::" + hex, "2002:" + hex + "::", "2002:" + hex + ":1::1",
		"2001:0:" + hex + "::", "2001::" + inverted, "2a00::5efe:" + hex, "2a00::200:5efe:" + hex,
		"2a02:64::" + hex, "64:ff9b:1::" + hex,
		fmt.Sprintf("64:ff9b:1:%02x%02x:%02x:%02x00::", v4[0], v4[1], v4[2], v4[3]),
	}
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestTranslationPrefixes has the examples of RFC 6052 section 2.4.
func TestTranslationPrefixes(t *testing.T) {
	for prefix, text := range map[string]string{
		"2001:db8::/32": "2001:db8:c000:221::", "2001:db8:100::/40": "2001:db8:1c0:2:21::", "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::", "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::", "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
	} {
		h := &Host{NAT64: []netip.Prefix{netip.MustParsePrefix(prefix)}}
		if f := h.forms(netip.MustParseAddr(text)); len(f) != 2 || f[1].String() != "192.0.2.33" {
			t.Errorf("%s holds %v", text, f)
		}
	}
}

func TestSpellingsAgree(t *testing.T) {
	m := newMaker(3)
	for range rounds / 10 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], m.Uint32())
		a := netip.AddrFrom4(b)
		if m.IntN(2) == 0 {
			a = netip.MustParseAddr(m.one([]string{"10.1.2.3", "127.0.0.1", "169.254.169.254", "93.184.216.34", "192.168.1.5", "100.100.100.200"}))
		}
		p, r := m.policy(), m.flow()
		r = m.next(m.next(r))
		r.Addr = a
		if r.HTTP != nil && !strings.ContainsAny(r.HTTP.Host, "ab") {
			continue
		}
		d := Decide(p, corpusHost, r)
		for i, s := range spellings(a) {
			r.Addr = s
			got := Decide(p, corpusHost, r)
			if i == 0 && short(got) != short(d) {
				t.Fatalf("%s: %s\n%s: %s\n%s", a, d.Why, s, got.Why, p.YAML())
			}
			if d.Action != Deny || got.Action == Deny {
				continue
			}
			// More may still end in nothing; a rule that names the spelling in words is meant.
			named := slices.ContainsFunc(p.rules, func(r rule) bool {
				return slices.ContainsFunc(r.cidrs, func(c netip.Prefix) bool { return c.Contains(s) })
			})
			special := len((*Host)(corpusHost).hits([]netip.Addr{a})) > 0
			if special || !named {
				t.Fatalf("%s is denied (%s), %s is not (%s)\n%s", a, d.Why, s, got.Why, p.YAML())
			}
		}
	}
}

// TestWhatCanBeReachedResolves wants answers for names that some rule about names
// would let a flow to.
func TestWhatCanBeReachedResolves(t *testing.T) {
	m := newMaker(4)
	seen := 0
	for range rounds {
		p, r := m.policy(), m.flow()
		if len(r.Names) == 0 {
			continue
		}
		r.Names = r.Names[:1]
		d := Decide(p, corpusHost, r)
		if d.Action != Allow && d.Action != Ask || d.Rule >= 0 && len(p.rules[d.Rule].hosts) == 0 {
			continue
		}
		seen++
		if !CouldResolve(p, r.Names[0], now) {
			t.Fatalf("%+v is %s (%s) and does not resolve\n%s", r, d.Action, d.Why, p.YAML())
		}
	}
	if seen < 500 {
		t.Errorf("only %d flows", seen)
	}
}

func TestParseAddr(t *testing.T) {
	for _, s := range []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0177.1", "017700000001",
		"0x7F.0x0.0x0.0x1", "127.0.0.1.", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "::FFFF:127.0.0.1%lo",
	} {
		if a, ok := ParseAddr(s); !ok || a.String() != "127.0.0.1" {
			t.Errorf("%q is %v, %v", s, a, ok)
		}
		if _, err := NormalName(s); err == nil {
			t.Errorf("%q is a name", s)
		}
	}
	for _, s := range []string{"", ".", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "4294967296", "0x", "08.1.1.1", "1..2", "+1", "1_0", "a.b", "[::1", "0x100000000"} {
		if a, ok := ParseAddr(s); ok {
			t.Errorf("%q is %v", s, a)
		}
	}
}

func TestReadings(t *testing.T) {
	for in, want := range map[string]string{
		"/a/b":       "/a/b",
		"/a%62?x":    "/ab",
		"/a/../b":    "/a/../b /b",
		"/a%2Fb":     "/a%2Fb /a/b",
		"/%2e%2e/b":  "/../b /b",
		"/a;x/b":     "/a;x/b /a/b",
		"//a":        "//a /a",
		"/a\\b":      "/a\\b /a/b",
		"/a/..;/b":   "/a/..;/b /a/../b /b",
		"/%252e/x":   "/%2e/x /./x /x",
		"/a%":        "/a%",
		"/a%zz":      "/a%zz",
		"a":          "",
		"/a%0ab":     "",
		"*":          "",
		"/a/.":       "/a/. /a/",
		"/a/..":      "/a/.. /",
		"/..a/.b/c.": "/..a/.b/c.",
	} {
		got := readings(in)
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a/*", "/a/b", true}, {"/a/*", "/a/", true}, {"/a/*", "/a/b/c", false}, {"/a/*", "/a", false},
		{"/a/**", "/a/b/c", true}, {"/a/**", "/a/", true}, {"/**/c", "/a/b/c", true}, {"/**/c", "/c", false},
		{"/**c", "/c", true}, {"/*.txt", "/a.txt", true}, {"/*.txt", "/a/b.txt", false}, {"/*a*b*", "/xaybz", true},
		{"/*a*b*", "/xbya", false}, {"/**a*/b", "/x/ya/b", true}, {"/a*", "/a", true}, {"/*/*/", "/x/y/", true},
	} {
		if got := globMatch(c.pattern, c.path); got != c.want {
			t.Errorf("%s on %s: %v", c.pattern, c.path, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range policyTexts(f) {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"default":"ask","rules":[{"action":"allow","domains":["*.example.com"],"methods":["GET"]}]}`))
	f.Add([]byte("rules:\n- &a {action: allow}\n- *a\n"))
	requests := []Request{
		{Protocol: TCP, Addr: netip.MustParseAddr("169.254.169.254"), Port: 80},
		{Protocol: TCP, Addr: netip.MustParseAddr("64:ff9b::a9fe:a9fe"), Port: 80, Names: []string{"a.example.com"}},
		{Protocol: TCP, Addr: netip.MustParseAddr("93.184.216.34"), Port: 443, Names: []string{"a.example.com"}},
		{Protocol: DNS, Question: "a.example.com", Type: "A"},
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text, now)
		if err != nil {
			if len(err.Error()) > 4<<10 && len(text) < 1<<10 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		checkRoundTrip(t, p)
		p.Explain(now)
		for i, r := range requests {
			r.At = now
			d := Decide(p, nil, r)
			checkDecision(t, "fuzz", p, d)
			if i < 2 && d.Action == Allow && !slices.Contains(p.rules[d.Rule].cidrs, netip.MustParsePrefix("169.254.169.254/32")) {
				t.Fatalf("metadata is open: %+v\n%s", d, p.YAML())
			}
		}
	})
}

// FuzzDecide wants an answer to whatever a guest may send.
func FuzzDecide(f *testing.F) {
	f.Add("a.example.com", "GET", "/v1/%2e%2e/x", []byte{93, 184, 216, 34})
	f.Add("xn--bcher-kva.example", "CONNECT", "", netip.MustParseAddr("64:ff9b::a00:1").AsSlice())
	f.Add("0x7f.1", "", "//", []byte{})
	all := policies(f)
	f.Fuzz(func(t *testing.T, name, method, path string, addr []byte) {
		a, _ := netip.AddrFromSlice(addr)
		for _, p := range all {
			for _, r := range []Request{
				{Protocol: DNS, Question: name, Type: method},
				{Protocol: TCP, Addr: a, Port: 443, Names: []string{name}},
				{Protocol: TCP, Addr: a, Port: 443, Names: []string{"a.example.com"}, App: AppTLS, TLS: &TLS{SNI: name}},
				{Protocol: TCP, Addr: a, Port: 80, Names: []string{"api.example.com"}, App: AppHTTP, HTTP: &HTTP{method, name, path}},
				{Protocol: method, Addr: a, Port: 443},
			} {
				r.At = now
				checkDecision(t, name, p, Decide(p, corpusHost, r))
			}
		}
	})
}

// TestYesIsEnough wants that a flow that was asked about gets out after the answer.
func TestYesIsEnough(t *testing.T) {
	m := newMaker(5)
	asked := 0
	for range rounds {
		p, r := m.policy(), m.flow()
		for range m.IntN(3) {
			r = m.next(r)
		}
		if Decide(p, corpusHost, r).Action != Ask {
			continue
		}
		asked++
		yes, ok := RuleFor(p, corpusHost, r)
		q, err := p.Insert(0, yes)
		if !ok || err != nil {
			t.Fatalf("%+v %v: %v", r, r.HTTP, err)
		}
		d := Decide(q, corpusHost, r)
		if d.Action == Allow || d.Action == More && (r.App == "" || r.App == AppHTTP && r.HTTP == nil) {
			continue
		}
		t.Fatalf("yes, and then %+v\n%+v %+v %+v\n%s", d, r, r.TLS, r.HTTP, q.YAML())
	}
	if asked < 300 {
		t.Errorf("only %d flows were asked about", asked)
	}
}

// TestYesIsNarrow wants that an answer about a request is one about that path alone.
func TestYesIsNarrow(t *testing.T) {
	p, err := Parse([]byte("rules: [{action: ask, domains: [api.example.com], paths: [/]}]"), now)
	if err != nil {
		t.Fatal(err)
	}
	request := func(path string) Request {
		return Request{
			At: now, Protocol: TCP, Addr: netip.MustParseAddr("93.184.216.34"), Port: 443, Names: []string{"api.example.com"},
			App: AppTLS, TLS: &TLS{SNI: "api.example.com"}, HTTP: &HTTP{Method: "POST", Host: "api.example.com", Path: path},
		}
	}
	for _, path := range []string{"/", "/v1"} {
		yes, ok := RuleFor(p, nil, request(path))
		q, err := p.Insert(0, yes)
		if !ok || err != nil {
			t.Fatal(err)
		}
		for other, want := range map[string]Action{path: Allow, path + "?q=1": Allow, strings.TrimSuffix(path, "/") + "/below": Ask} {
			if d := Decide(q, nil, request(other)); d.Action != want {
				t.Errorf("after a yes to %s, %s: %s", path, other, d.Why)
			}
		}
	}
}

func TestRuleForQuestion(t *testing.T) {
	p, err := Parse([]byte("default: ask"), now)
	if err != nil {
		t.Fatal(err)
	}
	q := Request{At: now, Protocol: DNS, Question: "New.example.com.", Type: "A"}
	yes, ok := RuleFor(p, nil, q)
	if p, err = p.Insert(0, yes); !ok || err != nil {
		t.Fatal(err)
	}
	if d := Decide(p, nil, q); short(d) != "allow r1 rule" {
		t.Error(d.Why)
	}
	if _, ok := RuleFor(p, nil, Request{Protocol: "sctp"}); ok {
		t.Error("a rule for nonsense")
	}
}

func TestDecideAddress(t *testing.T) {
	p, err := Parse([]byte(`rules:
  - {id: git, action: allow, domains: [git.corp.example.com], cidrs: [10.1.0.0/16], ttl: 1h}
  - {id: lan, action: ask, cidrs: [192.168.0.0/16]}
  - {id: no, action: deny, cidrs: [172.16.0.0/12]}
`), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, addr, want string }{
		{"git.corp.example.com", "93.184.216.34", "allow - default"},
		{"git.corp.example.com", "10.1.2.3", "allow git rule"},
		{"git.corp.example.com", "::ffff:10.1.2.3", "allow git rule"},
		{"git.corp.example.com", "10.2.2.3", "deny - name_to_denied"},
		{"evil.example.com", "10.1.2.3", "deny - name_to_denied"},
		{"evil.example.com", "64:ff9b::a01:203", "deny - name_to_denied"},
		{"any.example.com", "192.168.2.2", "allow lan rule"},
		{"any.example.com", "192.168.1.5", "deny - name_to_denied"},
		{"any.example.com", "172.16.0.1", "deny - name_to_denied"},
		{"any.example.com", "169.254.169.254", "deny - name_to_denied"},
		{"1.2.3.4", "93.184.216.34", "deny - bad_name"},
	} {
		d := DecideAddress(p, corpusHost, c.name, netip.MustParseAddr(c.addr), now)
		if got := short(d); got != c.want {
			t.Errorf("%s at %s: %s (%s)", c.name, c.addr, got, d.Why)
		}
		checkDecision(t, c.name, p, d)
	}
	if d := DecideAddress(p, nil, "git.corp.example.com", netip.MustParseAddr("10.1.2.3"), now.Add(time.Hour)); d.Action != Deny {
		t.Error("an expired rule names addresses")
	}
	if d := DecideAddress(p, nil, "git.corp.example.com", netip.Addr{}, now); d.Action != Deny {
		t.Error("no address is an address")
	}
}
