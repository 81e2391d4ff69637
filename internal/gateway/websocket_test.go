package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/gateway"
)

// socket is a client of exec over a WebSocket.
type socket struct {
	*door
	c *websocket.Conn
}

func (d *door) webSocket(path string, e any) *socket {
	d.Helper()
	header := http.Header{"Authorization": {"Bearer " + d.token}}
	c, _, err := websocket.Dial(d.ctx, "ws://"+d.addr+path, &websocket.DialOptions{
		HTTPClient: d.tcp, HTTPHeader: header, Subprotocols: []string{gateway.ExecProtocol},
	})
	d.ok(err)
	d.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(-1)
	if c.Subprotocol() != gateway.ExecProtocol {
		d.Errorf("subprotocol %q", c.Subprotocol())
	}
	s := &socket{d, c}
	s.say(e)
	return s
}

func (s *socket) say(v any) {
	s.Helper()
	b, err := json.Marshal(v)
	s.ok(err)
	s.ok(s.c.Write(s.ctx, websocket.MessageText, b))
}

func (s *socket) input(text string) {
	s.Helper()
	s.ok(s.c.Write(s.ctx, websocket.MessageBinary, []byte(text)))
}

// started waits for the first event.
func (s *socket) started() int {
	s.Helper()
	typ, b, err := s.c.Read(s.ctx)
	s.ok(err)
	var e api.ExecEvent
	s.ok(json.Unmarshal(b, &e))
	if typ != websocket.MessageText || e.Type != api.ExecStarted || e.PID == 0 {
		s.Fatalf("%s", b)
	}
	return e.PID
}

// until reads output until it holds what is wanted, and returns it.
func (s *socket) until(want string) string {
	s.Helper()
	var out strings.Builder
	for !strings.Contains(out.String(), want) {
		typ, b, err := s.c.Read(s.ctx)
		if err != nil || typ != websocket.MessageBinary {
			s.Fatalf("%s, %v after %q", b, err, out.String())
		}
		out.Write(b[1:])
	}
	return out.String()
}

// rest reads to the end.
func (s *socket) rest() (stdout, stderr string, last api.ExecEvent, status websocket.StatusCode) {
	s.Helper()
	var out [3]bytes.Buffer
	for {
		typ, b, err := s.c.Read(s.ctx)
		if err != nil {
			return out[1].String(), out[2].String(), last, websocket.CloseStatus(err)
		}
		if typ == websocket.MessageBinary {
			out[b[0]].Write(b[1:])
			continue
		}
		last = api.ExecEvent{}
		s.ok(json.Unmarshal(b, &last))
	}
}

const execWS = "/v1/sandboxes/web/exec/ws"

func TestWebSocket(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})

	s := d.webSocket(execWS, api.Exec{Command: `cat; printf '\377' >&2; exit 3`, KeepStdin: true, Stdin: "first "})
	s.started()
	all := strings.Repeat("all\x00bytes\xff", 100<<10)
	go func() {
		s.input(all)
		s.say(gateway.ExecMessage{CloseStdin: true})
	}()
	out, errs, last, status := s.rest()
	if out != "first "+all || errs != "\xff" || last.Type != api.ExecExit || last.Ended.ExitCode != 3 || status != websocket.StatusNormalClosure {
		t.Errorf("%d bytes, %q, %+v, %v", len(out), errs, last, status)
	}

	s = d.webSocket(execWS, api.Exec{Argv: []string{"sh", "-c", "stty size; read x; stty size; trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done"}, TTY: true, KeepStdin: true, Rows: 11, Cols: 22})
	s.started()
	s.until("11 22")
	s.say(gateway.ExecMessage{Resize: &gateway.ExecSize{Rows: 33, Cols: 44}})
	s.input("go\n")
	if out := s.until("ready"); !strings.Contains(out, "33 44") {
		t.Errorf("%q", out)
	}
	s.say(gateway.ExecMessage{Signal: "usr1"})
	if out, _, last, _ := s.rest(); !strings.Contains(out, "caught") || last.Ended == nil || last.Ended.ExitCode != 5 {
		t.Errorf("%q, %+v", out, last)
	}

	s = d.webSocket(execWS, api.Exec{Argv: []string{"no-such-program"}})
	if _, _, last, status := s.rest(); last.Type != api.ExecFailed || last.Error.Class != api.NotFound || status != websocket.StatusNormalClosure {
		t.Errorf("%+v, %v", last, status)
	}
	s = d.webSocket(execWS, api.Exec{Command: "sleep 60", TimeoutSeconds: 0.2})
	s.started()
	if _, _, last, _ := s.rest(); last.Ended == nil || !last.Ended.TimedOut {
		t.Errorf("%+v", last)
	}
}

func TestWebSocketRefuses(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	d.refused(d.send("GET", execWS, nil), 400, api.Invalid, "")
	d.refused(d.send("GET", execWS, nil, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: x", "Sec-WebSocket-Protocol: other"), 400, api.Invalid, "")
	for name, c := range map[string]struct {
		first any
		then  func(*socket)
	}{
		"an array":      {[]int{1}, nil},
		"unknown field": {map[string]any{"command": "true", "what": 1}, nil},
		"input":         {api.Exec{Command: "sleep 60"}, func(s *socket) { s.input("x") }},
		"empty message": {api.Exec{Command: "sleep 60"}, func(s *socket) { s.say(gateway.ExecMessage{}) }},
		"signal":        {api.Exec{Command: "sleep 60"}, func(s *socket) { s.say(gateway.ExecMessage{Signal: "SIGWHAT"}) }},
		"two":           {api.Exec{Command: "sleep 60"}, func(s *socket) { s.say(gateway.ExecMessage{Signal: "SIGINT", CloseStdin: true}) }},
		"size":          {api.Exec{Command: "sleep 60"}, func(s *socket) { s.say(gateway.ExecMessage{Resize: &gateway.ExecSize{}}) }},
		"long": {api.Exec{Command: "sleep 60"}, func(s *socket) {
			s.say(gateway.ExecMessage{Signal: strings.Repeat("x", 1<<20)})
		}},
	} {
		s := d.webSocket(execWS, c.first)
		pid := 0
		if c.then != nil {
			pid = s.started()
			c.then(s)
		}
		if _, _, last, status := s.rest(); last.Type != api.ExecFailed || last.Error.Class != api.Invalid || status != websocket.StatusPolicyViolation {
			t.Errorf("%s: %+v, %v", name, last, status)
		}
		if pid != 0 {
			d.dies(pid)
		}
	}
}

// dies waits for the end of a process of the fake guest, which is one of this host.
func (d *door) dies(pid int) {
	d.Helper()
	d.eventually(fmt.Sprintf("process %d ends", pid), func() bool { return syscall.Kill(pid, 0) != nil })
}

// TestManyWebSockets has many at once on one sandbox, half of which take nothing until
// the others are done.
func TestManyWebSockets(t *testing.T) {
	d := open(t, gateway.Options{})
	d.create(smolvm.Spec{Name: "web"})
	const n = 100
	const lot = 2 << 20
	var slow, fast []*socket
	for i := range n {
		e := api.Exec{Command: fmt.Sprintf("echo %d; cat", i), KeepStdin: true}
		if i%4 == 0 {
			slow = append(slow, d.webSocket(execWS, api.Exec{Command: fmt.Sprintf("head -c %d /dev/zero", lot)}))
			continue
		}
		fast = append(fast, d.webSocket(execWS, e))
	}
	var wg sync.WaitGroup
	for _, s := range fast {
		wg.Go(func() {
			s.started()
			s.input("hello")
			s.until("hello")
			s.say(gateway.ExecMessage{CloseStdin: true})
			if _, _, last, status := s.rest(); last.Ended == nil || last.Ended.ExitCode != 0 || status != websocket.StatusNormalClosure {
				t.Errorf("%+v, %v", last, status)
			}
		})
	}
	wg.Wait()
	for _, s := range slow {
		wg.Go(func() {
			s.started()
			if out, _, last, _ := s.rest(); len(out) != lot || last.Ended == nil || last.Ended.ExitCode != 0 {
				t.Errorf("%d bytes, %+v", len(out), last)
			}
		})
	}
	wg.Wait()
}
