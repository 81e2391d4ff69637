package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ask sends a question from the guest by UDP.
func (g *guest) ask(t *testing.T, server netip.Addr, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := g.udp(t, netip.AddrPortFrom(server, 53))
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(wire); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	k, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf[:k]); err != nil {
		t.Fatal(err)
	}
	if m.Id != q.Id || !m.Response {
		t.Fatalf("not an answer: %v", m)
	}
	return m
}

func question(name string, kind uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	m.SetEdns0(1232, false)
	return m
}

// example is a policy that allows names below example, and no private address.
var example = policy{
	question: func(q Question) Decision {
		if q.Name == "example" || strings.HasSuffix(q.Name, ".example") || strings.HasSuffix(q.Name, ".arpa") {
			return Decision{Verdict: Allow, Rule: "names"}
		}
		return Decision{Reason: "only example is allowed"}
	},
	address: func(_ string, a netip.Addr) Decision {
		if a.IsPrivate() || a.IsLoopback() {
			return Decision{Reason: "private"}
		}
		return Decision{Verdict: Allow}
	},
}

func exampleZone() *zone {
	return &zone{rrs: map[string][]string{
		"www.example A": {
			"www.example. 300 IN CNAME cdn.example.", "cdn.example. 100 IN A 203.0.113.1",
			"cdn.example. 200 IN A 203.0.113.2", "evil.example. 300 IN A 203.0.113.66",
		},
		"www.example AAAA":             {"www.example. 300 IN CNAME cdn.example.", "cdn.example. 100 IN AAAA 2001:db8::1"},
		"rebind.example A":             {"rebind.example. 1 IN A 192.168.1.1", "rebind.example. 1 IN A 203.0.113.3"},
		"inside.example A":             {"inside.example. 1 IN A 10.0.0.1"},
		"mapped.example AAAA":          {"mapped.example. 1 IN AAAA ::ffff:203.0.113.1"},
		"txt.example TXT":              {`txt.example. 60 IN TXT "hello"`},
		"mail.example MX":              {"mail.example. 60 IN MX 10 mx.example."},
		"_x._tcp.example SRV":          {"_x._tcp.example. 60 IN SRV 1 2 80 www.example."},
		"big.example TXT":              {`big.example. 60 IN TXT "` + strings.Repeat("a", 250) + `" "` + strings.Repeat("b", 250) + `" "` + strings.Repeat("c", 250) + `"`},
		"1.113.0.203.in-addr.arpa PTR": {"1.113.0.203.in-addr.arpa. 60 IN PTR upstream.example."},
	}}
}

func TestDNS(t *testing.T) {
	g := start(t, Config{Decider: example, Upstream: exampleZone()})
	for _, test := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string // of the records, after their TTL
	}{
		{"www.example", dns.TypeA, dns.RcodeSuccess, "www.example. CNAME cdn.example.; cdn.example. A 203.0.113.1; cdn.example. A 203.0.113.2"},
		{"WWW.Example", dns.TypeA, dns.RcodeSuccess, "WWW.Example. CNAME cdn.example.; cdn.example. A 203.0.113.1; cdn.example. A 203.0.113.2"},
		{"www.example", dns.TypeAAAA, dns.RcodeSuccess, "www.example. CNAME cdn.example.; cdn.example. AAAA 2001:db8::1"},
		{"rebind.example", dns.TypeA, dns.RcodeSuccess, "rebind.example. A 203.0.113.3"},
		{"inside.example", dns.TypeA, dns.RcodeSuccess, ""},
		{"mapped.example", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"txt.example", dns.TypeTXT, dns.RcodeSuccess, `txt.example. TXT "hello"`},
		{"mail.example", dns.TypeMX, dns.RcodeSuccess, "mail.example. MX 10 mx.example."},
		{"_x._tcp.example", dns.TypeSRV, dns.RcodeSuccess, "_x._tcp.example. SRV 1 2 80 www.example."},
		{"none.example", dns.TypeA, dns.RcodeNameError, ""},
		{"www.example", dns.TypeHTTPS, dns.RcodeSuccess, ""},
		{"www.example", dns.TypeANY, dns.RcodeNotImplemented, ""},
		{"example", dns.TypeAXFR, dns.RcodeNotImplemented, ""},
		{"secret.tunnel.test", dns.TypeTXT, dns.RcodeNameError, ""},
		{"tunnel.test", dns.TypeHTTPS, dns.RcodeNameError, ""},
		{`x\.www.example`, dns.TypeA, dns.RcodeNameError, ""},
		{`\000.example`, dns.TypeTXT, dns.RcodeNameError, ""},
		{".", dns.TypeA, dns.RcodeNameError, ""},
		{"localhost", dns.TypeA, dns.RcodeSuccess, "localhost. A 127.0.0.1"},
		{"a.localhost", dns.TypeAAAA, dns.RcodeSuccess, "a.localhost. AAAA ::1"},
		{"3.113.0.203.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, "3.113.0.203.in-addr.arpa. PTR rebind.example."},
	} {
		t.Run(test.name+" "+dns.TypeToString[test.kind], func(t *testing.T) {
			m := g.ask(t, DefaultGateway4, question(test.name, test.kind))
			var got []string
			for _, rr := range m.Answer {
				h := rr.Header()
				data := strings.TrimPrefix(rr.String(), h.String())
				got = append(got, h.Name+" "+dns.TypeToString[h.Rrtype]+" "+data)
			}
			slices.Sort(got[min(1, len(got)):])
			if s := strings.Join(got, "; "); m.Rcode != test.rcode || s != test.want {
				t.Errorf("%s, %q; want %q", dns.RcodeToString[m.Rcode], s, test.want)
			}
		})
	}
	e := g.log.wait(t, func(e Event) bool { return e.Question.Name == "rebind.example" })
	if e.Verdict != Allow || len(e.Removed) != 1 || e.Removed[0].String() != "192.168.1.1" || len(e.Addresses) != 1 {
		t.Errorf("event %+v", e)
	}
	e = g.log.wait(t, func(e Event) bool { return e.Question.Name == "secret.tunnel.test" })
	if e.Verdict != Deny || e.Reason != "only example is allowed" || e.Result != "NXDOMAIN" {
		t.Errorf("event %+v", e)
	}
}

func TestDNSDeniedNamesNeverLeave(t *testing.T) {
	z := exampleZone()
	g := start(t, Config{Decider: example, Upstream: z})
	m := g.ask(t, DefaultGateway4, question("data.of.mine.tunnel.test", dns.TypeTXT))
	if z.asked != 0 {
		t.Error("the upstream was asked")
	}
	opt := m.IsEdns0()
	if opt == nil || len(opt.Option) != 1 || !strings.Contains(opt.Option[0].String(), "only example is allowed") {
		t.Errorf("no reason in %v", m)
	}
}

// TestDNSWhoeverIsAsked has questions to servers of the world and by TCP.
func TestDNSWhoeverIsAsked(t *testing.T) {
	d := &dialer{}
	g := start(t, Config{Decider: example, Upstream: exampleZone(), Dialer: d})
	for _, server := range []netip.Addr{netip.MustParseAddr("8.8.8.8"), world6, DefaultGateway6} {
		if m := g.ask(t, server, question("txt.example", dns.TypeTXT)); len(m.Answer) != 1 {
			t.Errorf("%s: %v", server, m)
		}
		c := g.mustDial(t, netip.AddrPortFrom(server, 53))
		for range 2 {
			m := askStream(t, c, question("big.example", dns.TypeTXT))
			if len(m.Answer) != 1 || m.Truncated {
				t.Errorf("%s by TCP: %v", server, m)
			}
		}
		c.Close()
	}
	small := question("big.example", dns.TypeTXT)
	small.Extra = nil // no more than 512 bytes
	if m := g.ask(t, DefaultGateway4, small); !m.Truncated {
		t.Errorf("not cut off: %v", m)
	}
	if d.calls.Load() != 0 {
		t.Error("dialled")
	}
}

func askStream(t *testing.T, c net.Conn, q *dns.Msg) *dns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
		t.Fatal(err)
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	wire = make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, wire); err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDNSStreamGarbageEnds(t *testing.T) {
	g := start(t, Config{Decider: example, Upstream: exampleZone()})
	c := g.mustDial(t, world(53))
	if _, err := c.Write([]byte("\xff\xffGET / HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
}

// clock is a time that the test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestDNSCache(t *testing.T) {
	z, c := exampleZone(), &clock{t: time.Unix(1e9, 0)}
	g := start(t, Config{Decider: example, Upstream: z, Now: c.now})
	steps := []struct {
		wait  time.Duration
		name  string
		asked int    // how often the upstream was, by then
		ttl   uint32 // of the answer or the SOA
	}{
		{0, "www.example", 1, 100},
		{40 * time.Second, "www.example", 1, 60},
		{60 * time.Second, "www.example", 2, 100},
		{0, "none.example", 3, 60},
		{59 * time.Second, "none.example", 3, 1},
		{time.Second, "none.example", 4, 60},
	}
	for i, s := range steps {
		c.add(s.wait)
		m := g.ask(t, DefaultGateway4, question(s.name, dns.TypeA))
		rrs := slices.Concat(m.Answer, m.Ns)
		if z.asked != s.asked || len(rrs) == 0 || rrs[0].Header().Ttl != s.ttl {
			t.Errorf("step %d: asked %d, %v", i, z.asked, rrs)
		}
	}
}

func TestDNSFailure(t *testing.T) {
	z, c := exampleZone(), &clock{t: time.Unix(1e9, 0)}
	z.fail = errors.New("no network")
	g := start(t, Config{Decider: example, Upstream: z, Now: c.now})
	for range 2 {
		if m := g.ask(t, DefaultGateway4, question("www.example", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%v", m)
		}
	}
	if z.asked != 1 {
		t.Errorf("asked %d times", z.asked)
	}
	z.mu.Lock()
	z.fail = nil
	z.mu.Unlock()
	c.add(failureTTL)
	if m := g.ask(t, DefaultGateway4, question("www.example", dns.TypeA)); len(m.Answer) == 0 {
		t.Errorf("%v", m)
	}
}

// TestNamesReachFlows: a flow has the names whose answers hold its address, as
// long as those are good, and no others.
func TestNamesReachFlows(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	g := start(t, Config{Decider: example, Upstream: exampleZone(), Now: c.now, Limits: Limits{PinGrace: time.Minute}})
	g.ask(t, DefaultGateway4, question("www.example", dns.TypeA))
	names := func(addr string) []string {
		return g.n.newFlowTo(netip.MustParseAddrPort(addr)).Names
	}
	if got := names("203.0.113.2:443"); !slices.Equal(got, []string{"www.example"}) {
		t.Errorf("%v", got)
	}
	for _, other := range []string{"203.0.113.66:443", "203.0.113.3:443"} {
		if got := names(other); got != nil {
			t.Errorf("%s: %v", other, got)
		}
	}
	c.add(100*time.Second + time.Minute)
	if got := names("203.0.113.2:443"); got != nil {
		t.Errorf("too late: %v", got)
	}
}

func (n *Network) newFlowTo(dst netip.AddrPort) Flow {
	return n.flowBetween(TCP, netip.AddrPortFrom(n.link.guest4, 1), dst)
}

func TestNamesAreBounded(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	n := newNames(10, time.Minute, c.now)
	addr := netip.MustParseAddr("203.0.113.1")
	for i := range 100 {
		c.add(time.Second)
		n.pin(string(rune('a'+i%26))+string(rune('a'+i/26))+".example", []netip.Addr{addr, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, time.Minute)
	}
	if got := n.of(addr); len(got) != 10 || got[0] != "vd.example" {
		t.Errorf("%v", got)
	}
	if len(n.by) != 11 {
		t.Errorf("%d addresses are left", len(n.by))
	}
	many := make([]netip.Addr, 1000)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
	}
	n.pin("many.example", many, time.Minute)
	if p, _ := n.known.get("many.example"); len(p.until) != maxAddresses {
		t.Errorf("%d addresses of a name", len(p.until))
	}
}

// TestDialsNames: an allowed name is found by the host, and only where policy
// lets it be.
func TestDialsNames(t *testing.T) {
	addr := netip.MustParseAddrPort(listen(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("hi")) }).String())
	z := &zone{rrs: map[string][]string{
		"good.example A":   {"good.example. 60 IN A 127.0.0.1"},
		"mixed.example A":  {"mixed.example. 60 IN A 10.0.0.1", "mixed.example. 60 IN A 127.0.0.1"},
		"inside.example A": {"inside.example. 60 IN A 10.0.0.1"},
	}}
	for name, ok := range map[string]bool{"good.example": true, "mixed.example": true, "inside.example": false, "none.example": false} {
		t.Run(name, func(t *testing.T) {
			d := &dialer{}
			g := start(t, Config{Upstream: z, Dialer: d, Decider: policy{
				flow: func(Flow) Decision { return Decision{Verdict: Allow, Name: name, Port: addr.Port()} },
				address: func(_ string, a netip.Addr) Decision {
					return Decision{Verdict: map[bool]Verdict{true: Deny, false: Allow}[a.IsPrivate()]}
				},
			}})
			c, err := g.dial(world(80))
			if (err == nil) != ok {
				t.Fatalf("%v", err)
			}
			if !ok {
				if d.calls.Load() != 0 {
					t.Error("dialled")
				}
				return
			}
			if b, err := io.ReadAll(c); string(b) != "hi" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			c.Close()
			if e := g.log.kind(t, EventEnd); e.Dialed != addr.String() {
				t.Errorf("event %+v", e)
			}
		})
	}
}

func TestDNSWaits(t *testing.T) {
	answers := make(chan Decision, 1)
	p := example
	p.question = func(Question) Decision {
		answers <- Decision{Verdict: Allow}
		return Decision{Verdict: Wait, Answer: answers}
	}
	g := start(t, Config{Decider: p, Upstream: exampleZone()})
	if m := g.ask(t, DefaultGateway4, question("txt.example", dns.TypeTXT)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

func TestSanitize(t *testing.T) {
	q := Question{Name: "a.example", Type: "A"}
	for name, test := range map[string]struct {
		rrs  []string
		want int
		bad  bool
	}{
		"plain":       {[]string{"a.example. 60 IN A 203.0.113.1"}, 1, false},
		"other name":  {[]string{"b.example. 60 IN A 203.0.113.1"}, 0, false},
		"other type":  {[]string{"a.example. 60 IN TXT x"}, 0, false},
		"other class": {[]string{"a.example. 60 CH A 203.0.113.1"}, 0, false},
		"chain":       {[]string{"b.example. 60 IN A 203.0.113.1", "a.example. 60 IN CNAME b.example."}, 2, false},
		"circle":      {[]string{"a.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example."}, maxAliases, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &dns.Msg{}
			m.Response = true
			for _, s := range test.rrs {
				rr, err := dns.NewRR(s)
				if err != nil {
					t.Fatal(err)
				}
				m.Answer = append(m.Answer, rr)
			}
			if a := sanitize(q, m); len(a.rrs) != test.want || (a.failed != nil) != test.bad {
				t.Errorf("%+v", a)
			}
		})
	}
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, 99} {
		m := &dns.Msg{}
		m.Response, m.Rcode = true, rcode
		if a := sanitize(q, m); a.failed == nil {
			t.Errorf("rcode %d passed", rcode)
		}
	}
}

func TestReverseName(t *testing.T) {
	for _, a := range []string{"203.0.113.1", "2001:db8::1"} {
		name, err := dns.ReverseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := reverseName(canonical(name)); !ok || got.String() != a {
			t.Errorf("%s: %s, %t", a, got, ok)
		}
	}
	for _, bad := range []string{"", ".ip6.arpa", "1.2.3.in-addr.arpa", "x.2.3.4.in-addr.arpa", strings.Repeat("g.", 31) + "g.ip6.arpa"} {
		if got, ok := reverseName(bad); ok {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

// server is a real name server on loopback.
func server(t *testing.T, network string, h dns.HandlerFunc, addr string) string {
	t.Helper()
	s := &dns.Server{Net: network, Addr: addr, Handler: h}
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	failed := make(chan error, 1)
	go func() { failed <- s.ListenAndServe() }()
	select {
	case <-started:
	case err := <-failed:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.ShutdownContext(context.Background())
		<-failed
	})
	if network == "udp" {
		return s.PacketConn.LocalAddr().String()
	}
	return s.Listener.Addr().String()
}

func TestExchangeTriesTCPForWhatIsCutOff(t *testing.T) {
	z := exampleZone()
	addr := server(t, "udp", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Truncated = true
		_ = w.WriteMsg(m)
	}, "127.77.1.1:0") // an address of its own: the port must be free for TCP too
	server(t, "tcp", func(w dns.ResponseWriter, q *dns.Msg) {
		m, _ := z.Exchange(context.Background(), q)
		_ = w.WriteMsg(m)
	}, addr)
	m, err := exchange(context.Background(), question("big.example", dns.TypeTXT), addr)
	if err != nil || len(m.Answer) != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestExchangeRefusesOtherAnswers(t *testing.T) {
	addr := server(t, "udp", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Question[0].Name = "other.example."
		_ = w.WriteMsg(m)
	}, "127.0.0.1:0")
	if m, err := exchange(context.Background(), question("www.example", dns.TypeA), addr); err == nil {
		t.Errorf("%v", m)
	}
}

func TestHostServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	h := &hostServers{path: path}
	if _, err := h.list(); err == nil {
		t.Error("a missing file has servers")
	}
	for i, test := range []struct{ conf, want string }{
		{"nameserver 192.0.2.1\nnameserver 2001:db8::1\n", "192.0.2.1:53 [2001:db8::1]:53"},
		{"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53"},
		{"search example\n", ""},
	} {
		if err := os.WriteFile(path, []byte(test.conf), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		got, err := h.list()
		if strings.Join(got, " ") != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%q: %v, %v", test.conf, got, err)
		}
	}
}

// TestServers: the first that knows is believed, and none is an error.
func TestServers(t *testing.T) {
	answering := func(rcode int) string {
		return server(t, "udp", func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetRcode(q, rcode)
			_ = w.WriteMsg(m)
		}, "127.0.0.1:0")
	}
	broken, knows := answering(dns.RcodeServerFailure), answering(dns.RcodeNameError)
	m, err := Servers(broken, knows).Exchange(t.Context(), question("www.example", dns.TypeA))
	if err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := Servers().Exchange(t.Context(), question("www.example", dns.TypeA)); err == nil {
		t.Error("nobody answered")
	}
	want := nameServers{"192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.1:5353"}
	if got := Servers("192.0.2.1", "2001:db8::1", "192.0.2.1:5353"); !slices.Equal(got.(nameServers), want) {
		t.Errorf("%v", got)
	}
}
