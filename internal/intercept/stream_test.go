package intercept

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func copyAll(to io.Writer, from io.Reader) (int64, error) { return io.Copy(to, from) }

// TestEvents reads server-sent events: each must come before the next is made.
func TestEvents(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	next := make(chan int)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for n := range next {
			fmt.Fprintf(w, "data: %d\n\n", n)
			_ = http.NewResponseController(w).Flush()
		}
	})
	for _, guest2 := range []bool{false, true} {
		for _, origin2 := range []bool{false, true} {
			next = make(chan int)
			w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, origin2), Flow{TLS: true})
			res, err := w.client(guest2).Get("https://" + testName + "/events")
			must(t, err)
			in := bufio.NewReader(res.Body)
			for n := range 5 {
				next <- n
				if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", n) {
					t.Fatalf("event %d: %q, %v", n, line, err)
				}
				_, _ = in.ReadString('\n')
			}
			close(next)
			res.Body.Close()
		}
	}
}

// TestBothWays talks in one request: the server answers what it has got so far.
func TestBothWays(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		for in := bufio.NewReader(r.Body); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(w, "got %s", line)
			_ = http.NewResponseController(w).Flush()
		}
	})
	for _, guest2 := range []bool{false, true} {
		for _, origin2 := range []bool{false, true} {
			w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, origin2), Flow{TLS: true})
			body, say := io.Pipe()
			req, _ := http.NewRequest("POST", "https://"+testName+"/", body)
			go fmt.Fprintln(say, "0")
			res, err := w.client(guest2).Do(req)
			must(t, err)
			in := bufio.NewReader(res.Body)
			for n := range 4 {
				if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("got %d\n", n) {
					t.Fatalf("guest h2=%v, server h2=%v, line %d: %q, %v", guest2, origin2, n, line, err)
				}
				fmt.Fprintln(say, n+1)
			}
			say.Close()
			_, _ = io.Copy(io.Discard, in)
			res.Body.Close()
		}
	}
}

// TestLargeBodies moves far more than may be held, with a server or guest that is
// slow to begin.
func TestLargeBodies(t *testing.T) {
	const size, room = 48 << 20, 16 << 20
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n))
		if r.Method == "GET" {
			_, _ = io.Copy(w, repeat(block, size))
		}
	})
	for _, guest2 := range []bool{false, true} {
		for _, origin2 := range []bool{false, true} {
			w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, origin2), Flow{TLS: true})
			c := w.client(guest2)
			most := heapWhile(func() {
				res, err := c.Post("https://"+testName+"/", "", repeat(block, size))
				must(t, err)
				text(t, res)
				if res.Header.Get("X-Got") != fmt.Sprint(size) {
					t.Errorf("the server got %s of %d", res.Header.Get("X-Got"), size)
				}
				res, err = c.Get("https://" + testName + "/")
				must(t, err)
				if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
					t.Errorf("the guest got %d of %d: %v", n, size, err)
				}
				res.Body.Close()
			})
			if most > room {
				t.Errorf("guest h2=%v, server h2=%v: the heap grew by %d KiB", guest2, origin2, most>>10)
			}
			if e := w.exchange(1); e.Down != size {
				t.Errorf("counted %d of %d", e.Down, size)
			}
		}
	}
}

func repeat(block []byte, size int) io.Reader {
	n := 0
	return readFunc(func(p []byte) (int, error) {
		if n == size {
			return 0, io.EOF
		}
		k := copy(p[:min(len(p), size-n)], block[n%len(block):])
		n += k
		return k, nil
	})
}

// heapWhile returns by how much the heap grew at most while f ran.
func heapWhile(f func()) uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapInuse, uint64(0)
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse-min(m.HeapInuse, before))
			case <-done:
				return
			}
		}
	})
	f()
	close(done)
	work.Wait()
	return most
}

// TestSlowReader has a guest that does not read: the server must be stopped.
func TestSlowReader(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	stuck := make(chan int64, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		n, _ := io.Copy(w, repeat(make([]byte, 1<<20), 1<<30))
		stuck <- n
	})
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, a.pool(), serveOrigin(t, h, &cert, http2), Flow{TLS: true})
		res, err := w.client(http2).Get("https://" + testName + "/")
		must(t, err)
		if n := <-stuck; n > 64<<20 {
			t.Errorf("h2=%v: the server could send %d MiB to a guest that does not read", http2, n>>20)
		}
		res.Body.Close()
	}
}

// webSocket is the head of an opening handshake (RFC 6455 section 4.1).
const webSocket = "GET /chat HTTP/1.1\r\nHost: origin.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Test: HOLDER\r\n\r\n"

// switcher agrees to any switch and then sends back what it gets.
func switcher(w http.ResponseWriter, r *http.Request) {
	if upgradeOf(r.Header) == "" {
		echo(w, r)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Saw: %s\r\n\r\nhello\n", r.Header.Get("Upgrade"), r.Header.Get("X-Test"))
	for {
		line, err := buf.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprintf(conn, "echo %s", line)
	}
}

func TestSwitches(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	for _, c := range []struct {
		to      string
		opaque  bool
		switchs bool
	}{
		{"websocket", false, true},
		{"WebSocket", false, true},
		{"h2c", false, false},
		{"TLS/1.0", false, false},
		{"chat", false, false},
		{"chat", true, true},
		{"websocket, h2c", false, false},
	} {
		for _, origin2 := range []bool{false, true} {
			w := newWorld(t, a.pool(), serveOrigin(t, http.HandlerFunc(switcher), &cert, origin2), Flow{TLS: true,
				Decide: func(context.Context, *Request) Answer { return Answer{Allow: true, Opaque: c.opaque} },
				Rewrite: func(_ context.Context, out *Outgoing) error {
					out.Header.Set("X-Test", "value")
					return nil
				}})
			conn := w.conn(true)
			// What follows at once belongs to the switched connection.
			fmt.Fprintf(conn, webSocket+"early\n", c.to)
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			must(t, err)
			if (res.StatusCode == 101) != c.switchs {
				t.Errorf("%s, opaque %v, server h2=%v: got %s", c.to, c.opaque, origin2, res.Status)
			}
			if !c.switchs {
				b, _ := io.ReadAll(res.Body)
				if !strings.HasPrefix(string(b), "GET origin.example /chat") {
					t.Errorf("%s: without the switch got %s", c.to, b)
				}
				conn.Close()
				continue
			}
			if res.Header.Get("X-Saw") != "value" {
				t.Error("the request was not rewritten")
			}
			for _, want := range []string{"hello\n", "echo early\n"} {
				if line, err := in.ReadString('\n'); line != want {
					t.Fatalf("%s: got %q, %v, want %q", c.to, line, err, want)
				}
			}
			conn.Close()
			e := w.exchange(0)
			if e.Status != 101 || e.Up < 6 || e.Down < int64(len("hello\necho early\n")) || !strings.EqualFold(e.Request.Upgrade, c.to) {
				t.Errorf("exchange %+v", e)
			}
		}
	}
}

// TestUnaskedSwitch has a server that switches by itself.
func TestUnaskedSwitch(t *testing.T) {
	noLeaks(t)
	o := rawOrigin(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nxxxx")
		_, _ = io.Copy(io.Discard, c)
	})
	for _, head := range []string{"GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"} {
		w := newWorld(t, nil, o, Flow{Port: 80})
		conn := w.conn(false)
		_, _ = io.WriteString(conn, head+"\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(t, err)
		if got := text(t, res); res.StatusCode != 502 {
			t.Errorf("got %d %s", res.StatusCode, got)
		}
		conn.Close()
	}
}

func TestConnect(t *testing.T) {
	noLeaks(t)
	o := rawOrigin(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.RequestURI != "far.example:22" {
			fmt.Fprintf(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno")
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 Connected to %s\r\nContent-Length: 5\r\n\r\nhello\n", r.Host)
		line, _ := in.ReadString('\n')
		fmt.Fprintf(c, "echo %s", line)
	})
	ask := "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\nearly\n"
	for _, opaque := range []bool{false, true} {
		w := newWorld(t, nil, o, Flow{Port: 3128, Decide: func(_ context.Context, r *Request) Answer {
			return Answer{Allow: r.Host == "far.example:22" || r.Host == "other.example:22", Opaque: opaque}
		}})
		got := w.say(false, fmt.Sprintf(ask, "far.example:22"))
		if !opaque {
			if !strings.Contains(got, " 403 ") || !strings.Contains(got, "CONNECT is not passed on") || w.dialed() > 0 {
				t.Errorf("not opaque: %s", got)
			}
			continue
		}
		if want := "HTTP/1.1 200 OK\r\n\r\nhello\necho early\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if e := w.exchange(0); e.Status != 200 || e.Up != 6 || e.Request.Host != "far.example:22" {
			t.Errorf("exchange %+v", e)
		}
		if got := w.say(false, fmt.Sprintf(ask, "other.example:22")); !strings.Contains(got, " 407 ") || !strings.HasSuffix(got, "no") {
			t.Errorf("a server's no: %s", got)
		}
	}
}

// TestEndOfFlow ends flows in the middle of everything.
func TestEndOfFlow(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	o := serveOrigin(t, h, &cert, true)
	ca, err := OpenCA(t.TempDir()+"/ca", time.Now())
	must(t, err)
	in, err := New(Config{CA: ca, Roots: a.pool()})
	must(t, err)
	for _, http2 := range []bool{false, true} {
		guest, ours := pair(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() {
			done <- in.Serve(ctx, ours, Flow{TLS: true, Name: testName, Port: 443, Dial: o.dial,
				Decide: func(context.Context, *Request) Answer { return Answer{Allow: true} }})
		}()
		w := &world{t: t, ca: ca}
		c := w.client(http2)
		c.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return guest, nil }
		res, err := c.Get("https://" + testName + "/")
		must(t, err)
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(patience):
			t.Fatal("the flow outlives its context")
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

// pair are both ends of a connection.
func pair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l := listen(t)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	b, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
