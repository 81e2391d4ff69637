package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

// listen serves each connection to addr by f and returns the port.
func listen(t *testing.T, addr string, f func(*net.TCPConn)) int {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c.(*net.TCPConn))
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// echo sends back what comes, to its end.
func echo(c *net.TCPConn) {
	defer c.Close()
	io.Copy(c, c)
}

// readAll receives to the end.
func readAll(f *guest.Flow) ([]byte, error) {
	var all []byte
	for {
		p, err := f.Recv()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, p...)
	}
}

func dial(t *testing.T, c guest.Client, d guest.Dial) *guest.Flow {
	t.Helper()
	f, err := c.Dial(testContext(t), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestDialTCP(t *testing.T) {
	c := serve(t, agent.Options{})
	own := ""
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; !ip.IsLoopback() && ip.To4() != nil {
			own = ip.String() + ":0"
		}
	}
	if own == "" {
		t.Fatal("this host has no address beside loopback")
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", own, "0.0.0.0:0", "[::]:0"} {
		f := dial(t, c, guest.Dial{Proto: "tcp", Port: listen(t, addr, echo)})
		want := make([]byte, 1<<20) // more than the windows of a stream, and not more than sockets hold besides
		rand.Read(want)
		go func() {
			f.Write(want)
			f.CloseSend()
		}()
		if got, err := readAll(f); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d came back, %v", addr, len(got), len(want), err)
		}
	}
}

// A server may say its last and go on reading, and its client may as well.
func TestDialHalfClosed(t *testing.T) {
	c := serve(t, agent.Options{})
	got := make(chan string, 1)
	port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		io.WriteString(c, "first")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
		c.Close()
	})
	f := dial(t, c, guest.Dial{Proto: "tcp", Port: port})
	if b, err := readAll(f); err != nil || string(b) != "first" {
		t.Fatalf("%q, %v", b, err)
	}
	want := strings.Repeat("then the client", 10000)
	if _, err := io.WriteString(f, want); err != nil {
		t.Fatal(err)
	}
	f.CloseSend()
	if b := <-got; b != want {
		t.Errorf("the server read %d bytes of %d", len(b), len(want))
	}
}

func TestDialNobody(t *testing.T) {
	c := serve(t, agent.Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	_, err = c.Dial(testContext(t), guest.Dial{Proto: "tcp", Port: port})
	if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "nothing listens") {
		t.Error(err)
	}
	f := dial(t, c, guest.Dial{Proto: "udp", Port: port})
	f.Send([]byte("x"))
	if _, err := f.Recv(); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "nothing listens") {
		t.Error(err)
	}
	for _, d := range []guest.Dial{{Proto: "tcp"}, {Proto: "tcp", Port: 65536}, {Proto: "sctp", Port: 1}, {Proto: "tcp", Port: -1}} {
		if _, err := c.Dial(testContext(t), d); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

// Who resets a connection has the other side learn of it.
func TestDialReset(t *testing.T) {
	c := serve(t, agent.Options{})
	hung, ended := make(chan struct{}), make(chan error, 1)
	port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		defer c.Close()
		b := make([]byte, 1)
		io.ReadFull(c, b)
		if b[0] == 'r' {
			c.SetLinger(0)
			return
		}
		<-hung // what is written to it fills all that is between
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	f := dial(t, c, guest.Dial{Proto: "tcp", Port: port})
	f.Write([]byte("r"))
	if b, err := readAll(f); err == nil || len(b) > 0 {
		t.Errorf("a server's reset: %q, %v", b, err)
	}
	f = dial(t, c, guest.Dial{Proto: "tcp", Port: port})
	f.Write([]byte("h"))
	full := make(chan struct{})
	go func() {
		f.Write(make([]byte, 64<<20))
		close(full)
	}()
	select {
	case <-full:
		t.Error("64 MiB went to a server that does not read")
	case <-time.After(100 * time.Millisecond):
	}
	f.Close()
	<-full
	close(hung)
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a client's reset: %v", err)
	}
}

func TestDialUDP(t *testing.T) {
	c := serve(t, agent.Options{})
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		l, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := l.ReadFrom(buf)
				if err != nil {
					return
				}
				l.WriteTo(buf[:n], from)
			}
		}()
		f := dial(t, c, guest.Dial{Proto: "udp", Port: l.LocalAddr().(*net.UDPAddr).Port})
		for _, n := range []int{5, 0, 1, guest.MaxPayload, guest.MaxDatagram} {
			f.Send(bytes.Repeat([]byte{'x'}, n))
			if p, err := f.Recv(); err != nil || len(p) != n {
				t.Errorf("%s: of %d bytes %d came back, %v", addr, n, len(p), err)
			}
		}
	}
}

// A server that takes no connection must not hold its client up for ever.
func TestDialFullQueue(t *testing.T) {
	t.Parallel()
	c := serve(t, agent.Options{})
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	d := guest.Dial{Proto: "tcp", Port: sa.(*syscall.SockaddrInet4).Port}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 3 { // the queue takes one or two
		if _, err = c.Dial(ctx, d); err != nil {
			break
		}
	}
	if !errors.Is(err, api.ErrTimeout) || !strings.Contains(err.Error(), "queue is full") {
		t.Error(err)
	}
}
