package guest_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// overSockets is a relayed client with real sockets between.
type overSockets struct{ *relayed }

func (o overSockets) Open(ctx context.Context, op guest.Op, req wire.Message) (guest.Stream, error) {
	near, far, err := sockets(ctx)
	if err != nil {
		return nil, err
	}
	go func() { o.over <- o.serve(far) }()
	st := guest.NewConn(near)
	return st, st.Send(guest.KindOpen, append([]byte{byte(op)}, wire.Marshal(req)...))
}

func sockets(ctx context.Context) (near, far net.Conn, err error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if near, err = new(net.Dialer).DialContext(ctx, "unix", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	far, err = l.Accept()
	return near, far, err
}

// TestClientGoneStalled loses clients whose input the process does not take.
func TestClientGoneStalled(t *testing.T) {
	r := newRelayed(t)
	for name, opener := range map[string]guest.Opener{"session": r.session, "relay": overSockets{r}} {
		t.Run(name, func(t *testing.T) {
			p, err := guest.Client{Opener: opener}.Exec(testContext(t), guest.Exec{Argv: []string{"sleep", "73"}, Stdin: true})
			if err != nil {
				t.Fatal(err)
			}
			var sent counter
			done := make(chan error, 1)
			go func() {
				_, err := io.Copy(p, io.TeeReader(zeros{}, &sent))
				done <- err
			}()
			sent.stalls(t)
			p.Close()
			if err := <-done; err == nil {
				t.Error("all was sent")
			}
			gone(t, p.PID)
		})
	}
}

// counter counts the bytes that are written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// stalls returns when nothing was written for some time.
func (c *counter) stalls(t *testing.T) {
	t.Helper()
	const quiet = 300 * time.Millisecond
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for deadline := time.Now().Add(10 * time.Second); time.Since(since) < quiet || last == 0; <-tick.C {
		if n := c.n.Load(); n != last {
			last, since = n, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes, and it goes on", last)
		}
	}
}

// TestUploadCutOff has the source of an upload end as the body of a request does whose
// client went away. The file must stay as it was.
func TestUploadCutOff(t *testing.T) {
	r := newRelayed(t)
	c := guest.Client{Opener: r.session}
	path := filepath.Join(t.TempDir(), "f")
	if _, err := c.WriteFile(testContext(t), guest.Write{Path: path}, strings.NewReader("whole")); err != nil {
		t.Fatal(err)
	}
	cut := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if _, err := c.WriteFile(testContext(t), guest.Write{Path: path}, cut); err != io.ErrUnexpectedEOF {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestFeed gives a background process input in turns, and then its end.
func TestFeed(t *testing.T) {
	r := newRelayed(t)
	c, ctx := guest.Client{Opener: r}, testContext(t)
	p, err := c.Start(ctx, guest.Exec{Argv: []string{"wc", "-c"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []bool{false, false, true} {
		if err := c.Feed(ctx, p.Proc, io.LimitReader(zeros{}, 1<<20), end); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Attach(ctx, guest.ProcRef{Proc: p.Proc})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	var out strings.Builder
	if e, err := got.Wait(&out, nil); err != nil || e.Code != 0 || strings.TrimSpace(out.String()) != "3145728" {
		t.Errorf("%q, %+v, %v", out.String(), e, err)
	}
	if err := c.Feed(ctx, p.Proc, strings.NewReader("more"), false); api.ClassOf(err) != api.Conflict {
		t.Errorf("an ended process: %v", err)
	}
	deaf, err := c.Start(ctx, guest.Exec{Argv: []string{"sleep", "74"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Feed(ctx, deaf.Proc, strings.NewReader("x"), false); api.ClassOf(err) != api.Conflict {
		t.Errorf("a process without input: %v", err)
	}
}

// TestFeedGivenUp ends a call whose input the process does not take.
func TestFeedGivenUp(t *testing.T) {
	r := newRelayed(t)
	c := guest.Client{Opener: r.session}
	p, err := c.Start(testContext(t), guest.Exec{Argv: []string{"sleep", "75"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	var sent counter
	done := make(chan error, 1)
	go func() { done <- c.Feed(ctx, p.Proc, io.TeeReader(zeros{}, &sent), false) }()
	sent.stalls(t)
	cancel()
	if err := <-done; err == nil {
		t.Error("all was sent")
	}
	if err := c.Signal(testContext(t), p.Proc, "SIGKILL"); err != nil {
		t.Error(err)
	}
}
