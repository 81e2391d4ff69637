package netstack

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// world is an address that only Decisions turn into a real one.
var (
	world4 = netip.MustParseAddr("203.0.113.7")
	world6 = netip.MustParseAddr("2001:db8::7")
)

// policy is a Decider of functions. Without one everything is denied.
type policy struct {
	question func(Question) Decision
	flow     func(Flow) Decision
	address  func(string, netip.Addr) Decision
}

func (p policy) Question(_ context.Context, q Question) Decision {
	if p.question == nil {
		return Decision{Reason: "no questions"}
	}
	return p.question(q)
}

func (p policy) Flow(_ context.Context, f Flow) Decision {
	if p.flow == nil {
		return Decision{Reason: "no flows"}
	}
	return p.flow(f)
}

func (p policy) Address(name string, a netip.Addr) Decision {
	if p.address == nil {
		return Decision{Verdict: Allow}
	}
	return p.address(name, a)
}

// to allows every flow, to one address of the host.
func to(addr net.Addr) policy {
	a := netip.MustParseAddrPort(addr.String())
	return policy{flow: func(Flow) Decision {
		return Decision{Verdict: Allow, Addr: a.Addr(), Port: a.Port(), Rule: "test"}
	}}
}

// log is a Recorder that can be waited on.
type log struct {
	mu      sync.Mutex
	events  []Event
	changed chan struct{}
}

func newLog() *log { return &log{changed: make(chan struct{})} }

func (l *log) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait returns the first event that is wanted.
func (l *log) wait(t *testing.T, want func(Event) bool) Event {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		l.mu.Lock()
		for _, e := range l.events {
			if want(e) {
				l.mu.Unlock()
				return e
			}
		}
		changed, all := l.changed, l.events
		l.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no such event in %+v", all)
		}
	}
}

func (l *log) kind(t *testing.T, k EventKind) Event {
	t.Helper()
	return l.wait(t, func(e Event) bool { return e.Kind == k })
}

// socketpair returns the two ends of a stream, as QEMU and supervisor have them.
func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// guest is a second stack at the other end of the wire.
type guest struct {
	n     *Network
	stack *stack.Stack
	card  *card
	log   *log
	stop  func()
}

// start makes a network and a guest in it. Both are closed at the end of the
// test, which then must have left no goroutine of them.
func start(t testing.TB, cfg Config) *guest {
	t.Helper()
	before := ours()
	host, wire := socketpair(t)
	g := &guest{log: newLog()}
	if cfg.Recorder == nil {
		cfg.Recorder = g.log
	}
	n, err := New(host, cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.n = n
	g.boot(t, wire)
	t.Cleanup(func() {
		n.Close()
		g.stack.Close()
		g.stop()
		wire.Close()
		g.stack.Wait()
		noMore(t, before)
	})
	return g
}

func (g *guest) boot(t testing.TB, wire net.Conn) {
	cfg := g.n.cfg
	cfg.GatewayMAC, cfg.GuestMAC = cfg.GuestMAC, cfg.GatewayMAC // as seen from there
	g.card = newCard(wire, cfg, new(counters), new(tapHolder))
	// A guest's kernel acknowledges a handshake at once. Where that comes with the
	// first data, gVisor loses an end of stream that is right behind it for a while.
	g.card.acks.delay = 0
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	must := func(err tcpip.Error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	short := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	must(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &short))
	must(g.stack.CreateNIC(nic, g.card))
	for _, p := range []netip.Prefix{cfg.Guest4, cfg.Guest6} {
		must(g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(p.Addr()), PrefixLen: p.Bits()},
		}, stack.AddressProperties{}))
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, Gateway: toAddress(cfg.Gateway4), NIC: nic},
		{Destination: header.IPv6EmptySubnet, Gateway: toAddress(cfg.Gateway6), NIC: nic},
	})
	done := make(chan struct{})
	g.stop = func() { close(done) }
	go g.card.readLoop(func(f []byte) {
		g.card.deliver(uint16(f[12])<<8|uint16(f[13]), f)
	}, func() {})
	go g.card.writeLoop(done)
}

// dial connects from the guest.
func (g *guest) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	return g.dialWithin(5*time.Second, to)
}

func (g *guest) dialWithin(d time.Duration, to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, full(to), protocolOf(to.Addr()))
}

func (g *guest) mustDial(t testing.TB, to netip.AddrPort) *gonet.TCPConn {
	t.Helper()
	c, err := g.dial(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (g *guest) udp(t testing.TB, to netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	addr := full(to)
	c, err := gonet.DialUDP(g.stack, nil, &addr, protocolOf(to.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: toAddress(a.Addr()), Port: a.Port()}
}

func world(port uint16) netip.AddrPort { return netip.AddrPortFrom(world4, port) }

// listen starts a server on the host; serve runs for each connection.
func listen(t testing.TB, serve func(*net.TCPConn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr()
}

// ours returns the goroutines that run code of this package or of the stack.
func ours() map[string]bool {
	buf := make([]byte, 16<<20)
	buf = buf[:runtime.Stack(buf, true)]
	found := map[string]bool{}
	for _, g := range bytes.Split(buf, []byte("\n\n")) {
		head, rest, _ := strings.Cut(string(g), "\n")
		id, _, _ := strings.Cut(strings.TrimPrefix(head, "goroutine "), " ")
		if slices.ContainsFunc([]string{"testing.tRunner", "testing.(*", "netstack.listen."}, func(s string) bool { return strings.Contains(rest, s) }) {
			continue
		}
		if strings.Contains(rest, "internal/netstack") || strings.Contains(rest, "gvisor.dev/") {
			found[id] = true
		}
	}
	return found
}

// noMore fails if there are goroutines that were not there before.
func noMore(t testing.TB, before map[string]bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := 0
		for id := range ours() {
			if !before[id] {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left:\n%s", left, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond) // between looks at what no event tells
	}
}

// zone is an Upstream of fixed answers, in the format of zone files.
type zone struct {
	mu    sync.Mutex
	rrs   map[string][]string // "name TYPE" to records
	fail  error
	asked int
}

func (z *zone) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	if z.fail != nil {
		return nil, z.fail
	}
	m := new(dns.Msg)
	m.SetReply(q)
	rrs, ok := z.rrs[canonical(q.Question[0].Name)+" "+dns.TypeToString[q.Question[0].Qtype]]
	if !ok {
		m.Rcode = dns.RcodeNameError
		rrs = []string{"example. 300 IN SOA ns.example. root.example. 1 2 3 4 60"}
	}
	for _, s := range rrs {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m, nil
}
