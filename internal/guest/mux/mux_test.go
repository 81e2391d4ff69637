package mux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of these tests.
const (
	kindOpen = FirstKind + iota
	kindData
)

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
	t.Cleanup(func() { c[0].Close(); c[1].Close() })
	return c[0], c[1]
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// checkLeaks fails if goroutines of this package are left at the end of a test.
func checkLeaks(t *testing.T) {
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for {
			buf := make([]byte, 1<<20)
			text := string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(text, "guest/mux.(*") && !strings.Contains(text, "guest/mux.Serve") {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("goroutines are left:\n%s", text)
				return
			}
			runtime.Gosched()
		}
	})
}

// pair connects a session to a guest that runs handle.
func pair(t testing.TB, handle func(*Stream)) *Session {
	t.Helper()
	host, port := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), port, 1, handle) }()
	s, err := Connect(testContext(t), host, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		s.Close() // may be called twice
		if err := <-served; err != nil {
			t.Errorf("guest: %v", err)
		}
	})
	return s
}

// echo answers each message with itself.
func echo(s *Stream) {
	for {
		k, p, err := s.Recv()
		if err != nil {
			return
		}
		if err := s.Send(k, p); err != nil {
			return
		}
	}
}

// ask opens a stream, sends n messages and checks that they come back.
func ask(ctx context.Context, s *Session, n, size int) error {
	st, err := s.Open(ctx, kindOpen, []byte("open"))
	if err != nil {
		return err
	}
	defer st.Close()
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := st.Send(kindData, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				sent <- err
				return
			}
		}
		sent <- st.CloseSend()
	}()
	for i := -1; i < n; i++ {
		_, p, err := st.Recv()
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		want := []byte("open")
		if i >= 0 {
			want = bytes.Repeat([]byte{byte(i)}, size)
		}
		if !bytes.Equal(p, want) {
			return fmt.Errorf("message %d differs", i)
		}
	}
	if _, _, err := st.Recv(); err != io.EOF {
		return fmt.Errorf("after the end: %v", err)
	}
	return <-sent
}

func TestEcho(t *testing.T) {
	checkLeaks(t)
	s := pair(t, echo)
	for _, size := range []int{0, 1, 1000, MaxPayload} {
		if err := ask(testContext(t), s, 100, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestManyStreams(t *testing.T) {
	checkLeaks(t)
	s := pair(t, echo)
	errs := make(chan error)
	const n = 64
	for range n {
		go func() { errs <- ask(testContext(t), s, 50, 3000) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if len(s.l.streams) != 0 {
		t.Errorf("%d streams are left", len(s.l.streams))
	}
}

// TestSlowReader has a stream whose output nobody reads beside one that works.
func TestSlowReader(t *testing.T) {
	checkLeaks(t)
	s := pair(t, func(st *Stream) {
		_, p, _ := st.Recv()
		if string(p) != "flood" {
			st.Queue(kindData, p)
			echo(st)
			return
		}
		for st.Send(kindData, make([]byte, MaxPayload)) == nil {
		}
	})
	ctx := testContext(t)
	flood, err := s.Open(ctx, kindOpen, []byte("flood"))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := ask(ctx, s, 100, 1000); err != nil {
			t.Fatal(err)
		}
	}
	s.l.mu.Lock()
	if n := len(flood.in); n > Window || n < Window/2 {
		t.Errorf("%d bytes wait for the slow reader; the window has %d", n, Window)
	}
	s.l.mu.Unlock()
	flood.Close()
	if _, _, err := flood.Recv(); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestTooManyStreams(t *testing.T) {
	checkLeaks(t)
	s := pair(t, func(st *Stream) { st.AwaitEnd() })
	ctx := testContext(t)
	for range MaxStreams {
		if _, err := s.Open(ctx, kindOpen, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Open(ctx, kindOpen, nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
}

// TestHandlerEnds has a guest that stops reading while the host sends.
func TestHandlerEnds(t *testing.T) {
	checkLeaks(t)
	s := pair(t, func(st *Stream) { st.Queue(kindData, []byte("no")) })
	st, err := s.Open(testContext(t), kindOpen, nil)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = st.Send(kindData, make([]byte, MaxPayload))
	}
	if !errors.Is(err, ErrReset) && !errors.Is(err, ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if _, p, err := st.Recv(); err != nil || string(p) != "no" {
		t.Errorf("the reason is lost: %q, %v", p, err)
	}
	if _, _, err := st.Recv(); err != io.EOF {
		t.Errorf("after it: %v", err)
	}
}

func TestCloseEndsHandler(t *testing.T) {
	checkLeaks(t)
	ended := make(chan error, 1)
	s := pair(t, func(st *Stream) {
		st.Recv()
		_, _, err := st.Recv()
		ended <- err
	})
	st, err := s.Open(testContext(t), kindOpen, nil)
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	st.Close()
	if err := <-ended; !errors.Is(err, ErrReset) {
		t.Errorf("%v", err)
	}
}

// TestConnectTimeout has nobody at the other end.
func TestConnectTimeout(t *testing.T) {
	checkLeaks(t)
	host, _ := socketPair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, host, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := host.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestOtherVersion(t *testing.T) {
	checkLeaks(t)
	host, port := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), port, 2, echo) }()
	if _, err := Connect(testContext(t), host, 1); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("%v", err)
	}
	<-served
}

// TestOpenContext has a guest that reads nothing: opening must end with its context.
func TestOpenContext(t *testing.T) {
	checkLeaks(t)
	host, port := socketPair(t)
	go answerHello(port)
	s, err := Connect(testContext(t), host, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	for err == nil {
		_, err = s.Open(ctx, kindOpen, make([]byte, MaxPayload))
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// answerHello answers a greeting by hand and returns its nonce.
func answerHello(port io.ReadWriter) string {
	p := newParser()
	for {
		if p.fill(port) != nil {
			return ""
		}
		for p.seek(greetingStart(kindHello)) {
			f, ok, err := p.next()
			if err != nil {
				p.skip()
				continue
			}
			if !ok {
				break
			}
			_, nonce, _ := parseGreeting(f.payload)
			port.Write(appendGreeting(nil, kindAck, 1, nonce))
			return nonce
		}
	}
}
