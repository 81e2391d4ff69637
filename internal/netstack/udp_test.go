package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// listenUDP starts a server that echoes datagrams in upper case.
func listenUDP(t testing.TB) net.Addr {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(bytes.ToUpper(buf[:k]), from)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c.LocalAddr()
}

func TestUDP(t *testing.T) {
	for name, dst := range map[string]netip.Addr{"ipv4": world4, "ipv6": world6} {
		t.Run(name, func(t *testing.T) {
			g := start(t, Config{Decider: to(listenUDP(t)), Limits: Limits{UDPIdle: 200 * time.Millisecond}})
			c := g.udp(t, netip.AddrPortFrom(dst, 4000))
			buf := make([]byte, 1<<16)
			for _, size := range []int{1, 0, 1400, 60000} {
				if _, err := c.Write(bytes.Repeat([]byte("a"), size)); err != nil {
					t.Fatal(err)
				}
				k, err := c.Read(buf)
				if err != nil || !bytes.Equal(buf[:k], bytes.Repeat([]byte("A"), size)) {
					t.Fatalf("size %d: got %d bytes, %v", size, k, err)
				}
			}
			// Nothing more is said, so the flow ends.
			e := g.log.kind(t, EventEnd)
			if e.Sent != 61401 || e.Received != 61401 || e.Reason != "" {
				t.Errorf("end: %+v", e)
			}
			if s := g.n.Stats(); s.UDPFlows > 1 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

// TestUDPFragments has datagrams that do not fit into a frame, both ways.
func TestUDPFragments(t *testing.T) {
	for name, dst := range map[string]netip.Addr{"ipv4": world4, "ipv6": world6} {
		t.Run(name, func(t *testing.T) {
			g := start(t, Config{Decider: to(listenUDP(t)), MTU: 1500})
			c := g.udp(t, netip.AddrPortFrom(dst, 4000))
			if _, err := c.Write(bytes.Repeat([]byte("a"), 5000)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1<<16)
			if k, err := c.Read(buf); err != nil || k != 5000 {
				t.Errorf("got %d bytes, %v; %+v", k, err, g.n.Stats())
			}
		})
	}
}

func TestUDPDenied(t *testing.T) {
	d := &dialer{}
	g := start(t, Config{Dialer: d, Decider: policy{}})
	c := g.udp(t, world(4000))
	for range 20 {
		if _, err := c.Write([]byte("x")); err != nil {
			break // the first message's error has come
		}
	}
	if e := g.log.kind(t, EventFlow); e.Verdict != Deny || e.Flow.Proto != UDP {
		t.Errorf("event %+v", e)
	}
	if got := g.n.Stats().FlowsDenied; got != 1 {
		t.Errorf("asked %d times", got)
	}
	if d.calls.Load() != 0 {
		t.Error("dialled")
	}
}

func TestUDPPortUnreachable(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := c.LocalAddr()
	c.Close()
	g := start(t, Config{Decider: to(gone)})
	u := g.udp(t, world(4000))
	// The stack of the test's guest tells of an error at the next write only.
	deadline := time.Now().Add(5 * time.Second)
	for err = nil; err == nil && time.Now().Before(deadline); runtime.Gosched() {
		_, err = u.Write([]byte("x"))
	}
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("guest got %v", err)
	}
}

func TestUDPFlowsAreBounded(t *testing.T) {
	g := start(t, Config{Decider: to(listenUDP(t)), Limits: Limits{UDPFlows: 2}})
	buf := make([]byte, 10)
	for range 2 {
		c := g.udp(t, world(4000))
		_, _ = c.Write([]byte("a"))
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	c := g.udp(t, world(4000))
	_, _ = c.Write([]byte("a"))
	_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(buf); err == nil {
		t.Error("a third flow was made")
	}
	if s := g.n.Stats(); s.FlowsRefused != 1 {
		t.Errorf("stats %+v", s)
	}
}

// ping sends an echo request and returns what comes back.
func (g *guest) ping(t *testing.T, dst netip.Addr) ([]byte, error) {
	t.Helper()
	var queue waiter.Queue
	ep, terr := g.stack.NewEndpoint(icmp.ProtocolNumber4, header.IPv4ProtocolNumber, &queue)
	if terr != nil {
		t.Fatal(terr)
	}
	defer ep.Close()
	if terr := ep.Connect(tcpip.FullAddress{Addr: toAddress(dst)}); terr != nil {
		t.Fatal(terr)
	}
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if _, terr := ep.Write(bytes.NewReader([]byte{8, 0, 0, 0, 0, 0, 0, 1, 'h', 'i'}), tcpip.WriteOptions{}); terr != nil {
		t.Fatal(terr)
	}
	select {
	case <-readable:
	case <-time.After(time.Second):
		return nil, net.ErrClosed
	}
	var reply bytes.Buffer
	if _, terr := ep.Read(&reply, tcpip.ReadOptions{}); terr != nil {
		return nil, net.UnknownNetworkError(terr.String())
	}
	return reply.Bytes(), nil
}

func TestEcho(t *testing.T) {
	t.Run("gateway", func(t *testing.T) {
		g := start(t, Config{Decider: policy{}})
		b, err := g.ping(t, DefaultGateway4)
		if err != nil || !bytes.HasSuffix(b, []byte("hi")) {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("denied", func(t *testing.T) {
		g := start(t, Config{Decider: policy{}})
		if b, err := g.ping(t, world4); err == nil {
			t.Errorf("got %q", b)
		}
		if e := g.log.kind(t, EventFlow); e.Flow.Proto != ICMP || e.Verdict != Deny {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("held", func(t *testing.T) {
		g := start(t, Config{Decider: policy{flow: func(Flow) Decision {
			return Decision{Verdict: Wait, Answer: make(chan Decision)}
		}}})
		_, _ = g.ping(t, world4)
	})
	t.Run("outside", func(t *testing.T) {
		here := ownAddress(t)
		g := start(t, Config{Decider: policy{flow: func(Flow) Decision { return Decision{Verdict: Allow} }}})
		b, err := g.ping(t, here)
		conn, openErr := openPing(here)
		if openErr != nil {
			// This host lets nobody ping: the guest must hear so.
			if err == nil {
				t.Errorf("got %q without a socket", b)
			}
			return
		}
		conn.Close()
		if err != nil || !bytes.HasSuffix(b, []byte("hi")) {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// ownAddress returns an address of this host that is not its loopback's.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr()
		}
	}
	return netip.MustParseAddr("192.0.2.1") // no network at all: nobody answers, and nobody may
}
