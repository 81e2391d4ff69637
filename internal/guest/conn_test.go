package guest_test

import (
	"bytes"
	"context"
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
	"github.com/smolvm/smolvm/internal/guest/mux"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// relayed is a client whose streams go through connections of their own and a
// relay, as a supervisor's do.
type relayed struct {
	session *guest.Session
	over    chan error // one for each relay that ended
}

func (r *relayed) Open(ctx context.Context, op guest.Op, req wire.Message) (guest.Stream, error) {
	near, far := net.Pipe()
	go func() { r.over <- r.serve(far) }()
	st := guest.NewConn(near)
	return st, st.Send(guest.KindOpen, append([]byte{byte(op)}, wire.Marshal(req)...))
}

func (r *relayed) serve(conn net.Conn) error {
	client := guest.NewConn(conn)
	op, req, err := guest.Accept(client)
	if err != nil {
		return err
	}
	work, err := r.session.Open(context.Background(), op, req)
	if err != nil {
		return err
	}
	return guest.Relay(context.Background(), client, work)
}

func newRelayed(t *testing.T) *relayed {
	t.Helper()
	host, port := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), port, agent.Options{}) }()
	s, err := guest.Connect(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return &relayed{session: s, over: make(chan error, 100)}
}

func (r *relayed) await(t *testing.T) {
	t.Helper()
	select {
	case <-r.over:
	case <-time.After(10 * time.Second):
		t.Fatal("the relay goes on")
	}
}

func TestRelay(t *testing.T) {
	r := newRelayed(t)
	c := guest.Client{Opener: r}
	ctx := testContext(t)
	res, err := c.Run(ctx, guest.Exec{Argv: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}})
	if err != nil || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" || res.Code != 3 {
		t.Errorf("%+v, %v", res, err)
	}
	r.await(t)
	if _, err := c.Run(ctx, guest.Exec{Argv: []string{"no-such-program"}}); api.ClassOf(err) != api.NotFound {
		t.Errorf("%v", err)
	}
	r.await(t)
	p, err := c.Exec(ctx, guest.Exec{Argv: []string{"cat"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("x"), 1<<20)
	go func() {
		p.Write(want)
		p.CloseInput()
	}()
	var out bytes.Buffer
	if _, err := p.Wait(&out, nil); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	p.Close()
	r.await(t)
	// A request that is longer than a message.
	long := strings.Repeat("y", 100<<10)
	if res, err := c.Run(ctx, guest.Exec{Argv: []string{"echo", "-n", long}}); err != nil || string(res.Stdout) != long {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
	r.await(t)
}

// TestRelayRefusedUpload has the guest refuse while the client still sends.
func TestRelayRefusedUpload(t *testing.T) {
	r := newRelayed(t)
	c := guest.Client{Opener: r}
	_, err := c.WriteFile(testContext(t), guest.Write{Path: "/no/such/dir/f"}, io.LimitReader(zeros{}, 64<<20))
	if api.ClassOf(err) != api.NotFound {
		t.Errorf("%v", err)
	}
	r.await(t)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestRelayClientGone loses the client: its process must die, also when the
// client had said that it sends nothing more.
func TestRelayClientGone(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		r := newRelayed(t)
		p, err := guest.Client{Opener: r}.Exec(testContext(t), guest.Exec{Argv: []string{"sleep", "68"}})
		if err != nil {
			t.Fatal(err)
		}
		if quiet {
			st, err := r.Open(testContext(t), guest.OpExec, &guest.Exec{Argv: []string{"sleep", "69"}})
			if err != nil {
				t.Fatal(err)
			}
			st.CloseSend()
			m, err := st.Recv()
			if err != nil || m.Kind != guest.KindReply {
				t.Fatalf("%+v, %v", m, err)
			}
			st.Close()
			r.await(t)
		}
		p.Close()
		r.await(t)
		gone(t, p.PID)
	}
}

func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

// TestRelayGuestGone loses the guest: the client must not take it for a good end.
func TestRelayGuestGone(t *testing.T) {
	r := newRelayed(t)
	p, err := guest.Client{Opener: r}.Exec(testContext(t), guest.Exec{Argv: []string{"sleep", "70"}})
	if err != nil {
		t.Fatal(err)
	}
	r.session.Close()
	if _, err := p.Wait(nil, nil); api.ClassOf(err) != api.Unavailable {
		t.Errorf("%v", err)
	}
	p.Close()
	r.await(t)
	if err := r.session.Err(); api.ClassOf(err) != api.Unavailable {
		t.Errorf("%v", err)
	}
	if _, err := r.session.Open(testContext(t), guest.OpInfo, &guest.Empty{}); api.ClassOf(err) != api.Unavailable {
		t.Errorf("%v", err)
	}
}

// TestContextEnds has a guest that never answers.
func TestContextEnds(t *testing.T) {
	host, port := net.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- mux.Serve(context.Background(), port, guest.Version, func(s *mux.Stream) { s.AwaitEnd() })
	}()
	s, err := guest.Connect(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := (guest.Client{Opener: s}).Run(ctx, guest.Exec{Argv: []string{"x"}}); api.ClassOf(err) != api.Timeout {
		t.Errorf("%v", err)
	}
	s.Close()
	<-served
}

func TestConnHostile(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":       {},
		"half a header": {byte(guest.KindData), 0},
		"long":          {byte(guest.KindData), 0xff, 0xff, 0xff},
		"cut":           {byte(guest.KindData), 0, 0, 5, 'x'},
		"carrier kind":  {3, 0, 0, 0},
	} {
		near, far := net.Pipe()
		go func() {
			far.Write(b)
			far.Close()
		}()
		c := guest.NewConn(near)
		if _, err := c.Recv(); err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
		c.Close()
		if err := c.Send(guest.KindData, nil); err == nil {
			t.Errorf("%s: sent after close", name)
		}
	}
}

// hostile is an opener whose streams hold what a guest might send.
type hostile []guest.Message

func (h hostile) Open(context.Context, guest.Op, wire.Message) (guest.Stream, error) {
	msgs := h
	return &script{msgs: msgs}, nil
}

type script struct{ msgs []guest.Message }

func (s *script) Send(guest.Kind, []byte) error { return nil }
func (s *script) CloseSend() error              { return nil }
func (s *script) Close() error                  { return nil }
func (s *script) Recv() (guest.Message, error) {
	if len(s.msgs) == 0 {
		return guest.Message{}, io.EOF
	}
	m := s.msgs[0]
	s.msgs = s.msgs[1:]
	return m, nil
}

// TestClientHostile has a guest that answers wrongly: an error, never a panic or
// a hang, and nothing that moves a terminal.
func TestClientHostile(t *testing.T) {
	fail := wire.Marshal(&guest.Failure{Class: "root", Message: "\x1b[31mred\nline" + strings.Repeat("x", 10000)})
	more := guest.Message{Kind: guest.KindMore, Payload: make([]byte, guest.MaxPayload)}
	endless := make(hostile, guest.MaxMessage/guest.MaxPayload+1)
	for i := range endless {
		endless[i] = more
	}
	for name, h := range map[string]hostile{
		"nothing":          {},
		"wrong kind":       {{Kind: guest.KindData}},
		"malformed":        {{Kind: guest.KindReply, Payload: bytes.Repeat([]byte{0xff}, 12)}},
		"failure":          {{Kind: guest.KindError, Payload: fail}},
		"malformed error":  {{Kind: guest.KindError, Payload: []byte{0xff}}},
		"endless":          endless,
		"cut in parts":     {more},
		"end without exit": {{Kind: guest.KindReply}},
		"wrong output":     {{Kind: guest.KindReply}, {Kind: guest.KindEvent}},
		"malformed exit":   {{Kind: guest.KindReply}, {Kind: guest.KindExit, Payload: bytes.Repeat([]byte{0xff}, 12)}},
	} {
		_, err := guest.Client{Opener: h}.Run(testContext(t), guest.Exec{Argv: []string{"x"}})
		if err == nil || len(err.Error()) > 5000 || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	flood := hostile{{Kind: guest.KindReply}}
	for range 100 {
		flood = append(flood, guest.Message{Kind: guest.KindStdout, Payload: make([]byte, guest.MaxPayload)})
	}
	flood = append(flood, guest.Message{Kind: guest.KindExit})
	res, err := guest.Client{Opener: flood}.Run(testContext(t), guest.Exec{Argv: []string{"x"}, OutputLimit: 1000})
	if err != nil || len(res.Stdout) != 1000 || !res.Truncated {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
}

func FuzzConn(f *testing.F) {
	f.Add([]byte{byte(guest.KindOpen), 0, 0, 1, 3, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := guest.NewConn(fixed{bytes.NewReader(b)})
		total := 0
		for {
			m, err := c.Recv()
			if err != nil {
				break
			}
			total += len(m.Payload)
		}
		if total > len(b) {
			t.Errorf("%d bytes of %d", total, len(b))
		}
	})
}

type fixed struct{ io.Reader }

func (fixed) Write(p []byte) (int, error) { return len(p), nil }
func (fixed) Close() error                { return nil }
