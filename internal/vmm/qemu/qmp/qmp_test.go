package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// peer is the QEMU end of a connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (p *peer) say(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.conn, format+"\r\n", args...); err != nil {
		p.t.Errorf("peer: %v", err)
	}
}

func (p *peer) hear() request {
	p.t.Helper()
	line, err := p.r.ReadBytes('\n')
	if err != nil {
		p.t.Errorf("peer: %v", err)
	}
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		p.t.Errorf("peer: %q: %v", line, err)
	}
	return r
}

func (p *peer) negotiate() {
	p.t.Helper()
	p.say(hello)
	if r := p.hear(); r.Execute != "qmp_capabilities" {
		p.t.Errorf("first command is %q", r.Execute)
	} else {
		p.say(`{"return": {}, "id": %d}`, r.ID)
	}
}

func context10(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect returns a connected client and runs script as its QEMU. The test ends
// when both have.
func connect(t *testing.T, script func(*peer)) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := &peer{t, theirs, bufio.NewReader(theirs)}
		p.negotiate()
		script(p)
	}()
	c, err := Connect(context10(t), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); theirs.Close(); <-done })
	return c
}

func TestConnectTellsVersion(t *testing.T) {
	c := connect(t, func(*peer) {})
	if got := c.Version().String(); got != "7.2.22" {
		t.Errorf("version %s", got)
	}
	for _, v := range []struct {
		major, minor int
		want         bool
	}{{7, 2, true}, {7, 1, true}, {6, 9, true}, {7, 3, false}, {8, 0, false}} {
		if got := c.Version().AtLeast(v.major, v.minor); got != v.want {
			t.Errorf("at least %d.%d: %v", v.major, v.minor, got)
		}
	}
}

func TestExecuteDecodesAnswer(t *testing.T) {
	c := connect(t, func(p *peer) {
		r := p.hear()
		if r.Execute != "query-status" || fmt.Sprint(r.Arguments) != "map[a:1]" {
			t.Errorf("heard %+v", r)
		}
		p.say(`{"return": {"status": "running"}, "id": %d}`, r.ID)
	})
	var status struct{ Status string }
	if err := c.Execute(context10(t), "query-status", map[string]int{"a": 1}, &status); err != nil {
		t.Fatal(err)
	}
	if status.Status != "running" {
		t.Errorf("status %q", status.Status)
	}
}

func TestExecuteReturnsRefusal(t *testing.T) {
	c := connect(t, func(p *peer) {
		p.say(`{"id": %d, "error": {"class": "CommandNotFound", "desc": "no such command"}}`, p.hear().ID)
	})
	err := c.Execute(context10(t), "nonsense", nil, nil)
	var e *Error
	if !errors.As(err, &e) || e.Class != "CommandNotFound" || e.Command != "nonsense" {
		t.Errorf("got %v", err)
	}
}

func TestAnswersMatchByID(t *testing.T) {
	const n = 8
	c := connect(t, func(p *peer) {
		var heard []request
		for range n {
			heard = append(heard, p.hear())
		}
		p.say(`{"return": {}, "id": 9999}`) // to nobody
		for i := range heard {
			r := heard[n-1-i]
			p.say(`{"return": %q, "id": %d}`, r.Execute, r.ID)
		}
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			want := fmt.Sprint("command", i)
			var got string
			if err := c.Execute(context10(t), want, nil, &got); err != nil || got != want {
				t.Errorf("%s: %q, %v", want, got, err)
			}
		})
	}
	wg.Wait()
}

func TestEventsComeInOrderAndEnd(t *testing.T) {
	const n = 3 * EventBuffer // more than fit: the reader waits for us
	c := connect(t, func(p *peer) {
		for i := range n {
			p.say(`{"event": "E%d", "data": {"i": %d}, "timestamp": {"seconds": 5, "microseconds": 7}}`, i, i)
		}
		p.conn.Close()
	})
	i := 0
	for e := range c.Events() {
		if e.Name != fmt.Sprint("E", i) || string(e.Data) != fmt.Sprintf(`{"i": %d}`, i) {
			t.Fatalf("event %d is %s %s", i, e.Name, e.Data)
		}
		if !e.Time.Equal(time.Unix(5, 7000)) {
			t.Fatalf("time %v", e.Time)
		}
		i++
	}
	if i != n {
		t.Errorf("%d events of %d", i, n)
	}
	if err := c.Execute(context10(t), "stop", nil, nil); !errors.Is(err, ErrClosed) || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestCloseWhileEventsWaitUnread(t *testing.T) {
	c := connect(t, func(p *peer) {
		for { // until the client closes
			if _, err := io.WriteString(p.conn, `{"event": "E", "timestamp": {"seconds": 1, "microseconds": 1}}`+"\n"); err != nil {
				return
			}
		}
	})
	c.Close()
	c.Close()
}

func TestExecuteEndsWithContext(t *testing.T) {
	heard := make(chan struct{})
	c := connect(t, func(p *peer) {
		late := p.hear()
		close(heard)
		p.say(`{"return": "late", "id": %d}`, late.ID)
		r := p.hear()
		p.say(`{"return": "good", "id": %d}`, r.ID)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-heard; cancel() }()
	// The answer and the end race; both are fine, but nothing else.
	if err := c.Execute(ctx, "slow", nil, nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var got string
	if err := c.Execute(context10(t), "next", nil, &got); err != nil || got != "good" {
		t.Errorf("next: %q, %v", got, err)
	}
}

func TestExecuteEndsWhilePeerDoesNotRead(t *testing.T) {
	c := connect(t, func(*peer) {})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "stop", nil, nil); err == nil {
		t.Error("no error")
	}
	if err := c.Execute(context10(t), "stop", nil, nil); err == nil {
		t.Error("half a command was followed by another")
	}
}

func TestConnectFails(t *testing.T) {
	for name, c := range map[string]struct{ say, want string }{
		"closed":          {"", "EOF"},
		"half a line":     {`{"QMP": {}`, "unexpected EOF"},
		"no JSON":         {"hello\n", "decode message"},
		"neither":         {"{}\n", "no greeting, event or answer"},
		"too long":        {`{"event": "` + strings.Repeat("x", MaxLine) + `"}` + "\n", "longer than"},
		"error to nobody": {`{"error": {"desc": "bad JSON"}}` + "\n", "bad JSON"},
		"two greetings":   {hello + "\n" + hello + "\n", "second greeting"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				io.WriteString(theirs, c.say)
				if strings.Contains(c.say, hello) {
					io.Copy(io.Discard, theirs)
				}
				theirs.Close()
			}()
			_, err := Connect(context10(t), ours)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestConnectEndsWithContext(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Connect(ctx, ours); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte(hello + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"event": "STOP", "timestamp": {"seconds": 1}}`))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}, "id": 2}` + "\n"))
	f.Add([]byte("{\"id\": 18446744073709551616}\n{}\n[]\nnull\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDecoder(strings.NewReader(string(b)))
		for {
			m, err := d.next()
			if err != nil {
				return
			}
			if m.Greeting == nil && m.Event == "" && m.Error == nil && (m.ID == nil || m.Return == nil) {
				t.Fatalf("accepted %+v", m)
			}
			var v any
			m.decode("x", &v)
		}
	})
}
