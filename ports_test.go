package smolvm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
)

// portServers serve in the guest: HTTP at its loopback, a TCP echo at IPv6's, and
// a UDP echo. They say when they are ready.
const portServers = `
import http.server, socket, threading
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"hello from the guest"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
class S(http.server.ThreadingHTTPServer):
    request_queue_size = 200
web = S(("127.0.0.1", 8000), H)
threading.Thread(target=web.serve_forever, daemon=True).start()
echo = socket.create_server(("::1", 7000), family=socket.AF_INET6)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 5353))
def datagrams():
    while True:
        b, a = udp.recvfrom(65535)
        udp.sendto(b, a)
threading.Thread(target=datagrams, daemon=True).start()
def copy(c):
    while (b := c.recv(1 << 20)): c.sendall(b)
    c.close()
print("ready", flush=True)
while True:
    threading.Thread(target=copy, args=(echo.accept()[0],), daemon=True).start()
`

func hostAddress(p smolvm.Port) string {
	return net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort))
}

// TestVMPorts reaches servers in a guest that has no network.
func TestVMPorts(t *testing.T) {
	ctx := t.Context()
	sb := sandbox(t, client(t), smolvm.Spec{
		Network: smolvm.Network{Mode: "none"},
		Ports:   []smolvm.Port{{GuestPort: 8000}, {GuestPort: 7000}, {GuestPort: 5353, Proto: "udp"}},
	})
	ports, err := sb.Ports(ctx)
	if err != nil || len(ports) != 3 {
		t.Fatal(ports, err)
	}
	serve(t, ctx, sb)
	web, echo, udp := ports[0], ports[1], ports[2]
	t.Run("HTTP", func(t *testing.T) { get(t, web) })
	t.Run("many at once", func(t *testing.T) {
		began := time.Now()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { get(t, web) })
		}
		all.Wait()
		t.Logf("100 requests on new connections took %v", time.Since(began).Round(time.Millisecond))
	})
	t.Run("bytes", func(t *testing.T) { pumpEcho(t, echo) })
	t.Run("datagrams", func(t *testing.T) { datagrams(t, udp) })
	t.Run("nobody listens", func(t *testing.T) {
		p, err := sb.Expose(ctx, smolvm.Port{GuestPort: 9})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c, err := net.Dial("tcp", hostAddress(p))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		t.Logf("told in %v: %v", time.Since(began).Round(time.Millisecond), err)
		if err == nil || err == io.EOF {
			t.Error("the client is not told")
		}
	})
	t.Run("sleep and wake", func(t *testing.T) {
		if err := sb.Stop(ctx, smolvm.StopOptions{Hibernate: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := net.Dial("tcp", hostAddress(web)); err == nil {
			t.Error("somebody takes connections for a sandbox that sleeps")
		}
		if err := sb.Start(ctx); err != nil {
			t.Fatal(err)
		}
		get(t, web) // the server slept and woke too
		datagrams(t, udp)
	})
	t.Run("rewind", func(t *testing.T) {
		step, err := sb.Checkpoint(ctx, smolvm.Checkpoint{})
		if err != nil {
			t.Fatal(err)
		}
		if err := sb.Rewind(ctx, step.Step); err != nil {
			t.Fatal(err)
		}
		get(t, web)
	})
	t.Run("fork", func(t *testing.T) {
		children, err := sb.Fork(ctx, smolvm.ForkOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer children[0].Remove(context.WithoutCancel(ctx))
		list, err := children[0].Ports(ctx)
		if err != nil || len(list) == 0 || list[0].HostPort == web.HostPort {
			t.Fatal(list, err)
		}
		get(t, list[0])
		get(t, web)
	})
}

// serve starts portServers in a sandbox.
func serve(t *testing.T, ctx context.Context, sb *smolvm.Sandbox) {
	t.Helper()
	var out lockedBuffer
	p, err := sb.Exec(ctx, smolvm.Command{Argv: []string{"python3", "-c", portServers}, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	go p.Wait() // ends with the sandbox
	out.await(t, "ready")
}

func get(t *testing.T, p smolvm.Port) {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get("http://" + hostAddress(p))
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hello from the guest" {
		t.Errorf("%q, %v", b, err)
	}
}

// pumpEcho sends some MiB, has them come back, and prints how fast.
func pumpEcho(t *testing.T, p smolvm.Port) {
	c, err := net.Dial("tcp", hostAddress(p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	want := make([]byte, 8<<20)
	rand.Read(want)
	began := time.Now()
	go func() {
		c.Write(want)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes of %d came back, %v", len(got), len(want), err)
	}
	t.Logf("%.1f MB/s there and back", float64(len(want))/1e6/time.Since(began).Seconds())
}

func datagrams(t *testing.T, p smolvm.Port) {
	c, err := net.Dial("udp", hostAddress(p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1<<16)
	for _, n := range []int{1, 1400, 60000} {
		eventually(t, func() bool { // datagrams may get lost
			c.Write(make([]byte, n))
			c.SetReadDeadline(time.Now().Add(time.Second))
			m, err := c.Read(buf)
			return err == nil && m == n
		})
	}
}
