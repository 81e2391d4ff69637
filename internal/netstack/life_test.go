package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/smolvm/smolvm/api"
)

// TestCloseLeavesNothing closes a network in the middle of everything it can do.
func TestCloseLeavesNothing(t *testing.T) {
	closeBusyNetwork(t) // the runtime's own files are opened with the first socket
	files := openFiles(t)
	for range 3 {
		closeBusyNetwork(t)
	}
	deadline := time.Now().Add(5 * time.Second)
	for openFiles(t) > files && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if now := openFiles(t); now > files {
		t.Errorf("%d open files, %d before", now, files)
	}
}

func closeBusyNetwork(t *testing.T) {
	t.Helper()
	before := ours()
	tcp, udp, stop := echoServers(t)
	entered := new(sync.WaitGroup) // into what lasts
	entered.Add(5)
	g := &guest{log: newLog()}
	host, wire := socketpair(t)
	var err error
	g.n, err = New(host, Config{Decider: lasting(entered, tcp, udp), Recorder: g.log, Dialer: stuckAt{&dialer{}, "192.0.2.1"}})
	if err != nil {
		t.Fatal(err)
	}
	g.boot(t, wire)
	var guests sync.WaitGroup
	for port := range uint16(4) {
		guests.Go(func() {
			c, err := g.dial(world(port)) // 0 to 3
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(make([]byte, 1<<20)) // nobody reads the echo: it is stuck midway
		})
	}
	datagram := g.udp(t, world(4))
	_, _ = datagram.Write([]byte("x"))
	asking := g.udp(t, netip.AddrPortFrom(DefaultGateway4, 53))
	wireQuestion, err := question("held.example", 1).Pack()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = asking.Write(wireQuestion)
	entered.Wait()
	closed := time.Now()
	g.n.Close()
	if took := time.Since(closed); took > time.Second {
		t.Errorf("Close took %s", took)
	}
	if s := g.n.Stats(); s.TCPFlows+s.UDPFlows+s.Pings+s.Held != 0 {
		t.Errorf("stats %+v", s)
	}
	stop()
	g.stack.Close()
	guests.Wait()
	g.stop()
	wire.Close()
	datagram.Close()
	asking.Close()
	g.stack.Wait()
	noMore(t, before)
}

// lasting is a policy under which each port's flow stays in another state.
func lasting(entered *sync.WaitGroup, tcp, udp netip.AddrPort) policy {
	return policy{
		question: func(Question) Decision {
			entered.Done()
			return Decision{Verdict: Wait, Answer: make(chan Decision)}
		},
		flow: func(f Flow) Decision {
			switch f.Dst.Port() {
			case 1: // held
				entered.Done()
				return Decision{Verdict: Wait, Answer: make(chan Decision)}
			case 2: // a host that does not answer
				entered.Done()
				return Decision{Verdict: Allow, Addr: netip.MustParseAddr("192.0.2.1")}
			case 3:
				return Decision{Verdict: Serve, Handler: func(_ context.Context, guest net.Conn, _ Flow, _ DialFunc) error {
					entered.Done()
					_, err := io.Copy(io.Discard, guest)
					return err
				}}
			case 4:
				entered.Done()
				return Decision{Verdict: Allow, Addr: udp.Addr(), Port: udp.Port()}
			}
			return Decision{Verdict: Allow, Addr: tcp.Addr(), Port: tcp.Port()}
		},
	}
}

// echoServers are servers that the test ends itself, and a UDP port that is silent.
func echoServers(t *testing.T) (tcp, udp netip.AddrPort, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var servers sync.WaitGroup
	servers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String()), netip.MustParseAddrPort(silent.LocalAddr().String()), func() {
		l.Close()
		silent.Close()
		servers.Wait()
	}
}

// stuckAt is a Dialer for which one address never answers.
type stuckAt struct {
	*dialer
	addr string
}

func (s stuckAt) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if strings.HasPrefix(address, s.addr) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.dialer.DialContext(ctx, network, address)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestDialGuest(t *testing.T) {
	g := start(t, Config{Decider: policy{}})
	at := full(netip.AddrPortFrom(DefaultGuest4.Addr(), 8080))
	l, err := gonet.ListenTCP(g.stack, at, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		from <- c.RemoteAddr().String()
		_, _ = io.Copy(c, c)
		c.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := g.n.DialGuest(ctx, TCP, 8080)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if s := <-from; !strings.HasPrefix(s, DefaultGateway4.String()+":") {
		t.Errorf("from %s", s)
	}
	if _, err := g.n.DialGuest(ctx, TCP, 1); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if _, err := g.n.DialGuest(ctx, ICMP, 1); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func TestDialGuestUDP(t *testing.T) {
	g := start(t, Config{Decider: policy{}})
	at := full(netip.AddrPortFrom(DefaultGuest4.Addr(), 8080))
	server, err := gonet.DialUDP(g.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c, err := g.n.DialGuest(t.Context(), UDP, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	_ = server.SetDeadline(time.Now().Add(5 * time.Second))
	k, from, err := server.ReadFrom(buf)
	if err != nil || string(buf[:k]) != "hello" {
		t.Fatalf("%q, %v", buf[:k], err)
	}
	if _, err := server.WriteTo([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if k, err := c.Read(buf); err != nil || string(buf[:k]) != "back" {
		t.Errorf("%q, %v", buf[:k], err)
	}
}

// TestDialGuestThatIsSilent has no guest at the wire at all.
func TestDialGuestThatIsSilent(t *testing.T) {
	n, _, _ := raw(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.DialGuest(ctx, TCP, 80); !errors.Is(err, api.ErrTimeout) {
		t.Errorf("%v", err)
	}
}

// heap is the memory that is in use after all that is not needed has gone.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func TestManyShortConnections(t *testing.T) {
	const warm, total, atOnce = 1000, 10000, 16
	addr := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	g := start(t, Config{Decider: to(addr), Recorder: nobody{}})
	run := func(count int) {
		jobs := make(chan struct{}, count)
		for range count {
			jobs <- struct{}{}
		}
		close(jobs)
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				for range jobs {
					if err := shortConnection(g); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	run(warm)
	quiet(t, g)
	before := heap()
	began := time.Now()
	run(total)
	took := time.Since(began)
	quiet(t, g)
	grown := heap() - before
	t.Logf("%d connections in %s, %.0f a second; %d KiB more in use", total, took.Round(time.Millisecond), float64(total)/took.Seconds(), grown>>10)
	if grown > 2<<20 {
		t.Errorf("%d bytes more are in use after %d connections", grown, total)
	}
}

func shortConnection(g *guest) error {
	c, err := g.dial(world(80))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "hello" {
		return errors.New("got " + string(b))
	}
	return err
}

// quiet waits until no endpoint of a connection is left on either side.
func quiet(t *testing.T, g *guest) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	left := func() int {
		sum := g.n.Stats().TCPFlows
		for _, s := range []*stack.Stack{g.n.stack, g.stack} {
			sum += len(s.RegisteredEndpoints()) + len(s.CleanupEndpoints())
		}
		return sum
	}
	for left() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d flows and endpoints are left", left())
		}
		time.Sleep(10 * time.Millisecond) // between looks at what no event tells
	}
}

// TestSlowReaders has 200 guests' connections to a server that sends without
// end, none of which reads: memory is what the buffers bound, and stays there.
func TestSlowReaders(t *testing.T) {
	const readers = 200
	addr := listen(t, func(c *net.TCPConn) {
		b := make([]byte, 64<<10)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	g := start(t, Config{Decider: to(addr), Recorder: nobody{}})
	before := heap()
	for range readers {
		g.mustDial(t, world(80))
	}
	full := settled(t, g)
	inUse := heap() - before
	t.Logf("%d readers: %d MiB in use by both stacks, %d MiB passed", readers, inUse>>20, full>>20)
	// Both sides' buffers: of ours manyFlows wide ones, the rest narrow; of the
	// test's guest a megabyte each.
	bound := int64(manyFlows*wideBuffer+(readers-manyFlows)*narrowBuffer) + readers*(1<<20+2*largeCopy)
	if inUse > bound {
		t.Errorf("%d MiB in use, more than %d", inUse>>20, bound>>20)
	}
	for range 5 {
		settled(t, g)
	}
	if again := heap() - before; again > inUse+inUse/10+1<<20 {
		t.Errorf("grows: %d, then %d", inUse, again)
	}
}

// settled waits until nothing flows, and returns how much has.
func settled(t *testing.T, g *guest) uint64 {
	t.Helper()
	last := g.n.Stats().BytesOut
	deadline := time.Now().Add(20 * time.Second)
	for {
		time.Sleep(200 * time.Millisecond) // nothing must happen, and no event tells that
		now := g.n.Stats().BytesOut
		if now-last < 100<<10 { // probes of closed windows go on
			return now
		}
		if time.Now().After(deadline) {
			t.Fatal("it flows on")
		}
		last = now
	}
}
