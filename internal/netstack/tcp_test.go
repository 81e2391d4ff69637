package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestTCPBothWaysAndHalfClose(t *testing.T) {
	for name, dst := range map[string]netip.Addr{"ipv4": world4, "ipv6": world6} {
		t.Run(name, func(t *testing.T) {
			// The server answers only after the guest's end: each end is passed on
			// by itself.
			addr := listen(t, func(c *net.TCPConn) {
				all, err := io.ReadAll(c)
				if err == nil {
					_, _ = c.Write(bytes.ToUpper(all))
				}
			})
			g := start(t, Config{Decider: to(addr)})
			c := g.mustDial(t, netip.AddrPortFrom(dst, 80))
			if _, err := c.Write(bytes.Repeat([]byte("a"), 1<<20)); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("A"), 1<<20)) {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
			c.Close()
			f := g.log.kind(t, EventFlow)
			if f.Verdict != Allow || f.Rule != "test" || f.Flow.Dst != netip.AddrPortFrom(dst, 80) {
				t.Errorf("flow: %+v", f)
			}
			e := g.log.kind(t, EventEnd)
			if e.Flow.ID != f.Flow.ID || e.Sent != 1<<20 || e.Received != 1<<20 || e.Reason != "" || e.Dialed != addr.String() {
				t.Errorf("end: %+v", e)
			}
		})
	}
}

func TestTCPServerEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	addr := listen(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("hello"))
		_ = c.CloseWrite()
		all, _ := io.ReadAll(c)
		got <- string(all)
	})
	g := start(t, Config{Decider: to(addr)})
	c := g.mustDial(t, world(80))
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := c.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if s := <-got; s != "late" {
		t.Errorf("server got %q", s)
	}
}

// dialer counts, and may fail as told.
type dialer struct {
	calls atomic.Int64
	fail  func(context.Context) error
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.calls.Add(1)
	if d.fail != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: d.fail(ctx)}
	}
	var real net.Dialer
	return real.DialContext(ctx, network, address)
}

func TestTCPDenied(t *testing.T) {
	for name, test := range map[string]struct {
		how  Refusal
		want string
	}{
		"reset":       {Reset, "refused"},
		"unreachable": {Unreachable, "no route"},
		"drop":        {Drop, "deadline"},
	} {
		for family, dst := range map[string]netip.Addr{" ipv4": world4, " ipv6": world6} {
			if test.how == Unreachable && dst.Is6() {
				continue // the test's guest does not know this message: see TestUnreachable
			}
			t.Run(name+family, func(t *testing.T) {
				d := &dialer{}
				g := start(t, Config{Dialer: d, Decider: policy{flow: func(Flow) Decision {
					return Decision{How: test.how, Reason: "no", Rule: "7"}
				}}})
				limit := 3 * time.Second
				if test.how == Drop {
					limit = 100 * time.Millisecond
				}
				_, err := g.dialWithin(limit, netip.AddrPortFrom(dst, 80))
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("guest got %v, not %q", err, test.want)
				}
				e := g.log.kind(t, EventFlow)
				if e.Verdict != Deny || e.Reason != "no" || e.Rule != "7" {
					t.Errorf("event %+v", e)
				}
				if n := d.calls.Load(); n != 0 {
					t.Errorf("dialled %d times", n)
				}
			})
		}
	}
}

func TestTCPLooksAsItDoesOnTheHost(t *testing.T) {
	for name, test := range map[string]struct {
		fail func(context.Context) error
		want string
	}{
		"refused":     {func(context.Context) error { return syscall.ECONNREFUSED }, "refused"},
		"unreachable": {func(context.Context) error { return syscall.EHOSTUNREACH }, "no route"},
		"timeout": {func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}, "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, Config{
				Dialer:  &dialer{fail: test.fail},
				Decider: policy{flow: func(Flow) Decision { return Decision{Verdict: Allow} }},
				Limits:  Limits{ConnectTimeout: 50 * time.Millisecond},
			})
			limit := 3 * time.Second
			if name == "timeout" {
				limit = 200 * time.Millisecond
			}
			_, err := g.dialWithin(limit, world(80))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("guest got %v, not %q", err, test.want)
			}
			if e := g.log.kind(t, EventEnd); e.Reason == "" {
				t.Errorf("event %+v", e)
			}
		})
	}
}

func TestTCPResetsPass(t *testing.T) {
	t.Run("from server", func(t *testing.T) {
		addr := listen(t, func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		})
		g := start(t, Config{Decider: to(addr)})
		c := g.mustDial(t, world(80))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("guest got %v", err)
		}
	})
	t.Run("from guest", func(t *testing.T) {
		got := make(chan error, 1)
		addr := listen(t, func(c *net.TCPConn) {
			_, err := io.ReadAll(c)
			got <- err
		})
		g := start(t, Config{Decider: to(addr)})
		g.mustDial(t, world(80))
		for _, e := range g.stack.RegisteredEndpoints() {
			e.Abort()
		}
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("server got %v", err)
		}
	})
}

func TestTCPWaits(t *testing.T) {
	addr := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	a := netip.MustParseAddrPort(addr.String())
	for name, test := range map[string]struct {
		answer func(chan Decision)
		want   string // of the guest's error; empty: it connects
		reason string
	}{
		"allowed": {func(c chan Decision) { c <- Decision{Verdict: Allow, Addr: a.Addr(), Port: a.Port()} }, "", ""},
		"denied":  {func(c chan Decision) { c <- Decision{Reason: "she said no"} }, "refused", "she said no"},
		"closed":  {func(c chan Decision) { close(c) }, "refused", "no answer"},
		"again":   {func(c chan Decision) { c <- Decision{Verdict: Wait} }, "refused", "no answer"},
		"nothing": {func(chan Decision) {}, "refused", "nobody answered"},
	} {
		t.Run(name, func(t *testing.T) {
			answers := make(chan Decision, 1)
			d := &dialer{}
			asked := make(chan struct{})
			g := start(t, Config{Dialer: d, Decider: policy{flow: func(Flow) Decision {
				close(asked)
				return Decision{Verdict: Wait, Answer: answers, Hold: 200 * time.Millisecond}
			}}})
			result := make(chan error, 1)
			go func() {
				c, err := g.dial(world(80))
				if err == nil {
					c.Close()
				}
				result <- err
			}()
			<-asked
			if n := d.calls.Load(); n != 0 {
				t.Errorf("dialled %d times before the answer", n)
			}
			test.answer(answers)
			err := <-result
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("guest got %v, not %q", err, test.want)
			}
			if e := g.log.kind(t, EventFlow); !strings.Contains(e.Reason, test.reason) {
				t.Errorf("event %+v", e)
			}
			if test.want != "" && d.calls.Load() != 0 {
				t.Error("dialled without a decision")
			}
		})
	}
}

func TestTCPHeldAreBounded(t *testing.T) {
	g := start(t, Config{
		Limits: Limits{Held: 1},
		Decider: policy{flow: func(Flow) Decision {
			return Decision{Verdict: Wait, Answer: make(chan Decision)}
		}},
	})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := g.dialWithin(500*time.Millisecond, world(80)); first <- err }()
	go func() { _, err := g.dialWithin(500*time.Millisecond, world(81)); second <- err }()
	e := g.log.kind(t, EventFlow)
	if !strings.Contains(e.Reason, "too many") {
		t.Errorf("event %+v", e)
	}
	<-first
	<-second
}

func TestTCPServe(t *testing.T) {
	addr := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	a := netip.MustParseAddrPort(addr.String())
	// The handler sees the first line before anything is dialled.
	handler := func(ctx context.Context, guest net.Conn, f Flow, dial DialFunc) error {
		line := make([]byte, 5)
		if _, err := io.ReadFull(guest, line); err != nil {
			return err
		}
		d := Decision{Reason: "not a good word"}
		if string(line) == "good\n" {
			d = Decision{Verdict: Allow, Addr: a.Addr(), Port: a.Port()}
		}
		host, err := dial(ctx, d)
		if err != nil {
			return err
		}
		defer host.Close()
		if _, err := host.Write(line); err != nil {
			return err
		}
		_, err = io.CopyN(guest, host, int64(len(line)))
		return err
	}
	d := &dialer{}
	g := start(t, Config{Dialer: d, Decider: policy{flow: func(Flow) Decision {
		return Decision{Verdict: Serve, Handler: handler}
	}}})
	c := g.mustDial(t, world(443))
	if _, err := c.Write([]byte("evil\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("guest got %v", err)
	}
	if d.calls.Load() != 0 {
		t.Error("dialled")
	}
	g.log.wait(t, func(e Event) bool { return e.Kind == EventFlow && e.Reason == "not a good word" })
	c = g.mustDial(t, world(443))
	if _, err := c.Write([]byte("good\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "good\n" || err != nil {
		t.Errorf("guest got %q, %v", b, err)
	}
}

// TestTCPServeDialFirst: the guest's handshake tells of the host's, and the
// handler that sees the first bytes gets the connection that was made for it.
func TestTCPServeDialFirst(t *testing.T) {
	ends := make(chan error, 2)
	addr := listen(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ends <- err
	})
	a := netip.MustParseAddrPort(addr.String())
	handler := func(ctx context.Context, guest net.Conn, f Flow, dial DialFunc) error {
		first := make([]byte, 4)
		if _, err := io.ReadFull(guest, first); err != nil {
			return err
		}
		if string(first) != "good" {
			return errors.New("not a good word")
		}
		host, err := dial(ctx, Decision{Verdict: Allow, Addr: a.Addr(), Port: f.Dst.Port()})
		if err != nil {
			return err
		}
		if _, err := host.Write(first); err != nil {
			return err
		}
		return Relay(ctx, guest, host)
	}
	d := &dialer{}
	g := start(t, Config{Dialer: d, Decider: policy{flow: func(f Flow) Decision {
		return Decision{Verdict: Serve, Handler: handler, DialFirst: true, Addr: a.Addr(), Port: f.Dst.Port()}
	}}})
	if _, err := g.dial(world(1)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("guest got %v", err)
	}
	d.calls.Store(0)
	for _, test := range []struct{ say, want string }{{"good bye", "good bye"}, {"evil one", ""}} {
		c := g.mustDial(t, world(a.Port()))
		if _, err := c.Write([]byte(test.say)); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); string(b) != test.want || (err != nil) != (test.want == "") {
			t.Errorf("guest got %q, %v", b, err)
		}
		if err := <-ends; (err != nil) != (test.want == "") {
			t.Errorf("the server saw %v", err)
		}
	}
	if n := d.calls.Load(); n != 2 {
		t.Errorf("dialled %d times", n)
	}
}

// TestTCPGatewayIsDecidedAsLoopback says what a Decider hears of the gateway, so
// that it is as closed as the host's loopback.
func TestTCPGatewayIsDecidedAsLoopback(t *testing.T) {
	g := start(t, Config{Decider: policy{}})
	for _, test := range []struct{ to, decided netip.Addr }{{DefaultGateway4, loopback4}, {DefaultGateway6, loopback6}} {
		if _, err := g.dial(netip.AddrPortFrom(test.to, 80)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("guest got %v", err)
		}
		g.log.wait(t, func(e Event) bool {
			return e.Kind == EventFlow && e.Verdict == Deny && e.Flow.Dst == netip.AddrPortFrom(test.decided, 80)
		})
	}
}

func TestTCPFlowsAreBounded(t *testing.T) {
	addr := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	g := start(t, Config{Decider: to(addr), Limits: Limits{TCPFlows: 3}})
	var open []io.Closer
	for range 3 {
		open = append(open, g.mustDial(t, world(80)))
	}
	if _, err := g.dialWithin(100*time.Millisecond, world(80)); err == nil {
		t.Fatal("a fourth flow was made")
	}
	if s := g.n.Stats(); s.FlowsRefused == 0 || s.TCPFlows != 3 {
		t.Errorf("stats %+v", s)
	}
	open[0].Close()
	g.log.kind(t, EventEnd)
	if _, err := g.dial(world(80)); err != nil {
		t.Errorf("no room after one ended: %v", err)
	}
}

func TestTCPIdleIsReaped(t *testing.T) {
	addr := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	g := start(t, Config{Decider: to(addr), Limits: Limits{TCPIdle: 100 * time.Millisecond}})
	c := g.mustDial(t, world(80))
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("guest got %v", err)
	}
}

// TestTCPBackpressure has a server that writes without end to a guest that does
// not read: what the server gets rid of is bounded by buffers.
func TestTCPBackpressure(t *testing.T) {
	var written atomic.Int64
	stuck := make(chan struct{})
	addr := listen(t, func(c *net.TCPConn) {
		_ = c.SetWriteBuffer(64 << 10)
		b := make([]byte, 64<<10)
		for {
			_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			k, err := c.Write(b)
			written.Add(int64(k))
			if err != nil {
				close(stuck)
				return
			}
		}
	})
	g := start(t, Config{Decider: to(addr)})
	c := g.mustDial(t, world(80))
	<-stuck
	// The guest's own stack holds a megabyte, the kernel's sockets up to six.
	if w := written.Load(); w > 12<<20 {
		t.Errorf("the server wrote %d bytes", w)
	}
	if k, err := io.Copy(io.Discard, c); k != written.Load() || err != nil {
		t.Errorf("guest got %d of %d bytes, %v", k, written.Load(), err)
	}
}
