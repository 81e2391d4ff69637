package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

// patience bounds a wait: far above what any takes on a busy machine.
const patience = 30 * time.Second

// world is a set of ports over a real agent, whose guest is this host.
type world struct {
	*testing.T
	*Set
	session *guest.Session
	refused atomic.Int64
	taken   atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	before := runtime.NumGoroutine()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	served := make(chan struct{})
	go func() {
		defer close(served)
		agent.Serve(context.Background(), far, agent.Options{})
	}()
	session, err := guest.Connect(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, session: session}
	w.Set = New(Config{
		Dial: func(ctx context.Context, d guest.Dial) (Flow, error) {
			return guest.Client{Opener: session}.Dial(ctx, d)
		},
		Seen: func(_ api.Port, _ netip.AddrPort, err error) {
			if err != nil {
				w.refused.Add(1)
			} else {
				w.taken.Add(1)
			}
		},
	})
	t.Cleanup(func() {
		w.Close()
		w.Close()
		session.Close()
		<-served
		far.Close()
		w.eventually("all goroutines end", func() bool { return runtime.NumGoroutine() <= before+2 })
	})
	return w
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			w.Fatalf("%s: it did not happen", what)
		}
	}
}

func (w *world) add(p api.Port) api.Port {
	w.Helper()
	p, err := w.Add(p)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// server serves each connection by f, one after the other closed at the test's end.
func (w *world) server(f func(*net.TCPConn)) (guestPort int) {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	w.Cleanup(func() {
		l.Close()
		w.Close() // ends what the servers wait for
		work.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

func address(p api.Port) string { return net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort)) }

func (w *world) dial(p api.Port) net.Conn {
	w.Helper()
	c, err := net.Dial(p.Proto, address(p))
	if err != nil {
		w.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	w.Cleanup(func() { c.Close() })
	return c
}

func echo(c *net.TCPConn) { io.Copy(c, c) }

// freePort is a port that nobody has.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Many connections at once are all served, though more than MaxFlows of them only
// when others have ended, and commands find their way meanwhile.
func TestThousandAtOnce(t *testing.T) {
	w := newWorld(t)
	const n = 1000
	var at, most atomic.Int64
	open := make(chan struct{})
	end := sync.OnceFunc(func() { close(open) })
	p := w.add(api.Port{GuestPort: w.server(func(c *net.TCPConn) {
		at.Add(1)
		defer at.Add(-1)
		<-open
		echo(c)
	})})
	w.Cleanup(end) // or the servers would wait for it after a failure
	var done sync.WaitGroup
	var failed atomic.Int64
	for i := range n {
		done.Go(func() {
			c, err := net.Dial("tcp", address(p))
			if err == nil {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(c, "client %d", i)
				c.(*net.TCPConn).CloseWrite()
				var b []byte
				b, err = io.ReadAll(c)
				if err == nil && string(b) != fmt.Sprintf("client %d", i) {
					err = fmt.Errorf("got %q", b)
				}
			}
			if err != nil {
				failed.Add(1)
				t.Log(err)
			}
		})
	}
	w.eventually("there are as many as there may be", func() bool { return at.Load() == MaxFlows })
	most.Store(at.Load())
	if r, err := (guest.Client{Opener: w.session}).Run(t.Context(), guest.Exec{Argv: []string{"true"}}); err != nil || r.Code != 0 {
		t.Error("a command meanwhile:", r, err)
	}
	if at.Load() > MaxFlows {
		t.Errorf("%d are served at once", at.Load())
	}
	end()
	done.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d failed", failed.Load(), n)
	}
	w.eventually("all are over", func() bool { return len(w.slots) == 0 })
}

// Where nobody listens the client is told at once.
func TestNobodyListens(t *testing.T) {
	w := newWorld(t)
	p := w.add(api.Port{GuestPort: freePort(t)})
	began := time.Now()
	c, err := net.Dial("tcp", address(p))
	if err == nil { // it may be quicker than this program
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if w.refused.Load() != 1 || w.taken.Load() != 0 {
		t.Errorf("%d refused, %d taken", w.refused.Load(), w.taken.Load())
	}
}

// Each direction ends by itself, and a reset is passed on as one.
func TestEnds(t *testing.T) {
	w := newWorld(t)
	got := make(chan error, 1)
	var waits atomic.Bool
	p := w.add(api.Port{GuestPort: w.server(func(c *net.TCPConn) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			got <- err
		}
		switch b[0] {
		case 's': // says its last first
			io.WriteString(c, "bye")
			c.CloseWrite()
			b, err := io.ReadAll(c)
			if err == nil && string(b) != "and more" {
				err = fmt.Errorf("got %q", b)
			}
			got <- err
		case 'r':
			c.SetLinger(0)
		case 'w': // waits for the client's reset
			waits.Store(true)
			_, err := c.Read(b)
			got <- err
		}
	})})
	c := w.dial(p)
	io.WriteString(c, "s")
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Errorf("%q, %v", b, err)
	}
	io.WriteString(c, "and more")
	c.(*net.TCPConn).CloseWrite()
	if err := <-got; err != nil {
		t.Error(err)
	}
	c = w.dial(p)
	io.WriteString(c, "r")
	if b, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a server's reset: %q, %v", b, err)
	}
	c = w.dial(p)
	io.WriteString(c, "w")
	// Not before: a reset may overtake what was sent.
	w.eventually("the server waits", waits.Load)
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a client's reset: %v", err)
	}
}

// Who does not read stops its own connection and no other, and little is held.
func TestSlowReaders(t *testing.T) {
	w := newWorld(t)
	const n = 50
	block := make(chan struct{})
	var sent atomic.Int64
	silent := w.add(api.Port{GuestPort: w.server(func(c *net.TCPConn) { <-block })})
	loud := w.add(api.Port{GuestPort: w.server(func(c *net.TCPConn) {
		for buf := make([]byte, 64<<10); ; {
			n, err := c.Write(buf)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})})
	quick := w.add(api.Port{GuestPort: w.server(echo)})
	w.Cleanup(func() { close(block) })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		c := w.dial(silent)
		go io.Copy(c, zeros{}) // ends with c
		w.dial(loud)           // and nobody reads
	}
	last := int64(-1)
	w.eventually("all stand still", func() bool {
		now := sent.Load()
		still := now == last && now > 0 && w.taken.Load() == 2*n
		last = now
		if !still {
			runtime.Gosched()
			return false
		}
		return true
	})
	began := time.Now()
	c := w.dial(quick)
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	t.Logf("beside %d that stand still an exchange took %v", 2*n, time.Since(began))
	runtime.GC()
	runtime.ReadMemStats(&after)
	// Both ends of the channel are in this process, and each may hold a window a
	// stream twice: what has come, and what is being taken.
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 2*n*2*(256<<10)*2 {
		t.Errorf("%d MiB are held", held>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A client that is gone while its server takes nothing is noticed.
func TestLost(t *testing.T) {
	server, client := pair(t)
	flow := &stuckFlow{closed: make(chan struct{})}
	over := make(chan struct{})
	r := &tcpRelay{conn: server, flow: flow}
	go func() {
		defer close(over)
		r.forth()
	}()
	io.WriteString(client, "x")
	if r.lost() {
		t.Error("a connection is given up that is alive")
	}
	client.CloseWrite()
	if r.lost() {
		t.Error("a connection is given up whose client listens")
	}
	client.SetLinger(0)
	client.Close()
	for deadline := time.Now().Add(patience); !r.lost(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("a client's reset goes unnoticed")
		}
	}
	r.abort()
	<-over
	server, _ = pair(t)
	r = &tcpRelay{conn: server, flow: flow}
	r.waits.Store(time.Now().Add(-halfTime - time.Second).UnixNano())
	if !r.lost() {
		t.Error("a client that is silent after the server's end is waited for")
	}
}

// stuckFlow takes nothing.
type stuckFlow struct {
	closed chan struct{}
	once   sync.Once
}

func (s *stuckFlow) Write([]byte) (int, error) { <-s.closed; return 0, io.ErrClosedPipe }
func (s *stuckFlow) Recv() ([]byte, error)     { <-s.closed; return nil, io.ErrClosedPipe }
func (s *stuckFlow) Send([]byte) error         { return nil }
func (s *stuckFlow) CloseSend() error          { return nil }
func (s *stuckFlow) Close() error              { s.once.Do(func() { close(s.closed) }); return nil }

func pair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

func TestBind(t *testing.T) {
	w := newWorld(t)
	guestPort := w.server(echo)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	_, err = w.Add(api.Port{HostPort: port, GuestPort: guestPort})
	e := api.AsError(err)
	if !errors.Is(err, api.ErrConflict) || e.Code != api.CodePortTaken || !strings.Contains(e.Message, strconv.Itoa(port)) || !strings.Contains(e.Recovery, "0:") {
		t.Errorf("%v (%s)", err, e.Recovery)
	}
	// One that was picked is picked again.
	p := w.add(api.Port{HostPort: port, GuestPort: guestPort, Picked: true})
	if p.HostPort == port || p.HostPort == 0 || !p.Picked || p.HostIP != api.DefaultHostIP {
		t.Errorf("%+v", p)
	}
	w.Remove(p)
	if again := w.add(p); again != p {
		t.Errorf("%+v became %+v", p, again)
	}
	if _, err := w.Add(api.Port{HostIP: "192.0.2.1", GuestPort: 1}); !errors.Is(err, api.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := w.Add(api.Port{HostIP: "localhost", GuestPort: 1}); !errors.Is(err, api.ErrInvalid) {
		t.Error(err)
	}
}

// A port is bound where it was asked for, and nowhere else.
func TestAddresses(t *testing.T) {
	w := newWorld(t)
	guestPort := w.server(echo)
	own := ownAddress(t)
	for _, test := range []struct {
		ip          string
		loopback    bool
		own, second bool
	}{
		{"", true, false, false},
		{"127.0.0.2", false, false, true},
		{own, false, true, false},
		{"0.0.0.0", true, true, true},
	} {
		for _, proto := range []string{"tcp", "udp"} {
			p := w.add(api.Port{Proto: proto, HostIP: test.ip, GuestPort: guestPort})
			for ip, want := range map[string]bool{"127.0.0.1": test.loopback, own: test.own, "127.0.0.2": test.second, "::1": false} {
				if got := bound(proto, ip, p.HostPort); got != want {
					t.Errorf("bound to %s: %s %s is bound: %t", p.HostIP, proto, ip, got)
				}
			}
		}
	}
}

// bound reports whether somebody has a port of an address.
func bound(proto, ip string, port int) bool {
	addr := net.JoinHostPort(ip, strconv.Itoa(port))
	if proto == "udp" {
		c, err := net.ListenPacket("udp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	}
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func ownAddress(t *testing.T) string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; !ip.IsLoopback() && ip.To4() != nil {
			return ip.String()
		}
	}
	t.Fatal("this host has no address beside loopback")
	return ""
}

// udpServer answers each datagram with itself, but for "quiet".
func (w *world) udpServer() int {
	w.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, guest.MaxDatagram)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			if string(buf[:n]) != "quiet" {
				l.WriteTo(buf[:n], from)
			}
		}
	}()
	return l.LocalAddr().(*net.UDPAddr).Port
}

func TestUDP(t *testing.T) {
	w := newWorld(t)
	p := w.add(api.Port{Proto: "udp", GuestPort: w.udpServer()})
	a, b := w.dial(p), w.dial(p)
	buf := make([]byte, guest.MaxDatagram)
	for i, n := range []int{1, 0, 1500, guest.MaxPayload + 1, 60000} {
		for j, c := range []net.Conn{a, b} {
			want := bytes.Repeat([]byte{byte(2*i + j)}, n)
			c.Write(want)
			m, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:m], want) {
				t.Errorf("%d bytes: %d came back, %v", n, m, err)
			}
		}
	}
	if n := w.taken.Load(); n != 2 {
		t.Errorf("two peers had %d conversations", n)
	}
}

// A flood of peers is bounded, and drives out nobody who talks.
func TestUDPFlood(t *testing.T) {
	w := newWorld(t)
	p := w.add(api.Port{Proto: "udp", GuestPort: w.udpServer()})
	other := w.add(api.Port{Proto: "udp", GuestPort: w.udpServer()})
	talk := w.dial(p)
	buf := make([]byte, 100)
	ask := func(c net.Conn) {
		t.Helper()
		// Datagrams get lost where a socket's buffer is full.
		w.eventually("an answer comes", func() bool {
			io.WriteString(c, "hello")
			c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			n, err := c.Read(buf)
			return err == nil && string(buf[:n]) == "hello"
		})
	}
	ask(talk)
	for range 3 * MaxTalks {
		c, err := net.Dial("udp", address(p))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "quiet")
		c.Close()
		if n := len(w.talks); n > MaxTalks {
			t.Fatalf("%d conversations at once", n)
		}
	}
	ask(talk)
	w.eventually("its own peers are bounded", func() bool { return len(w.talks) <= udpPeers })
	ask(w.dial(other))
}

// Nobody answers for a port over UDP where nobody listens, and nothing is kept.
func TestUDPNobody(t *testing.T) {
	w := newWorld(t)
	p := w.add(api.Port{Proto: "udp", GuestPort: freePort(t)})
	c := w.dial(p)
	for range 3 {
		io.WriteString(c, "hello")
		w.eventually("it is forgotten", func() bool { return len(w.talks) == 0 && w.taken.Load() > 0 })
	}
}

// Removing a port ends its connections and gives the port back.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	p := w.add(api.Port{GuestPort: w.server(echo)})
	c := w.dial(p)
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	w.Remove(p)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	l, err := net.Listen("tcp", address(p))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w.Remove(p) // there is none
	w.Close()
	if _, err := w.Add(p); !errors.Is(err, api.ErrUnavailable) {
		t.Error(err)
	}
}
