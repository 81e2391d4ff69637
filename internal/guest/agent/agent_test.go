package agent_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
	"golang.org/x/sys/unix"
)

// socketPair returns two connected sockets.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return c[0], c[1]
}

// serve runs an agent as an ordinary process does and returns its client.
func serve(t testing.TB, o agent.Options) guest.Client {
	t.Helper()
	host, port := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), port, o) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := guest.Connect(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("agent: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the agent did not end with its connection")
		}
		port.Close()
	})
	return guest.Client{Opener: s}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func BenchmarkExecTrue(b *testing.B) {
	c := serve(b, agent.Options{})
	ctx := testContext(b)
	for b.Loop() {
		r, err := c.Run(ctx, guest.Exec{Argv: []string{"true"}})
		if err != nil || r.Code != 0 {
			b.Fatal(r, err)
		}
	}
}
