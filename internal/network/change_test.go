package network

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// greeter says something to each client, then echoes.
func greeter(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			go func() {
				defer c.Close()
				io.WriteString(c, "220 hello\r\n")
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// mustRead reads exactly what is wanted.
func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("got %q, %v; want %q", b, err, want)
	}
}

func compile(t *testing.T, rules ...api.Rule) *egress.Policy {
	t.Helper()
	p, err := egress.New(api.Policy{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func anyPort(action api.PolicyAction, names ...string) api.Rule {
	return api.Rule{Action: action, Domains: names, CIDRs: []string{"127.0.0.1"}}
}

// TestServerSpeaksFirst lets a server greet while the client's first bytes are
// awaited to decide, as SMTP and SSH want it.
func TestServerSpeaksFirst(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, anyPort(api.PolicyAllow, world.WWW))
	c, err := s.dial(t, "tcp", hostPort(world.WWW, greeter(t)))
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, c, "220 hello\r\n")
	io.WriteString(c, "EHLO\r\nme")
	mustRead(t, c, "EHLO\r\nme")
	e := s.book.kind(t, api.EventFlow, api.PolicyAllow)
	if e.Rule != "r1" || e.Host != world.WWW {
		t.Errorf("flow: %+v", e)
	}
}

func TestChangedPolicyEndsFlows(t *testing.T) {
	for name, change := range map[string]func(*sandbox){
		"policy": func(s *sandbox) { s.SetPolicy(compile(t)) },
		"expiry": func(*sandbox) {},
		"sleep":  func(*sandbox) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.Start(t)
			rule := api.Rule{ID: "ip", Action: api.PolicyAllow, CIDRs: []string{"127.0.0.1"}}
			if name == "expiry" {
				rule.Expires = time.Now().Add(1500 * time.Millisecond) // in whole seconds, rounded down
			}
			var slept atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(slept.Load())) }
			if name == "sleep" { // of the host, whose timers stand still
				rule.Expires = time.Now().Add(time.Hour)
			}
			s := start(t, w, Config{Now: now}, rule)
			c, err := s.dial(t, "tcp", hostPort(netstack.DefaultGateway4.String(), greeter(t)))
			if err != nil {
				t.Fatal(err)
			}
			mustRead(t, c, "220 hello\r\n")
			change(s)
			if name == "sleep" {
				slept.Store(int64(2 * time.Hour))
			}
			if _, err := io.ReadAll(c); err == nil {
				t.Error("the flow ended in order")
			}
			e := s.book.kind(t, api.EventEnd, api.PolicyAllow)
			if e.Reason == "" {
				t.Errorf("end: %+v", e)
			}
		})
	}
}

func TestChangedPolicyAnswers(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, asking(w, world.WWW))
	events, stop := s.Watch()
	defer stop()
	done := s.begin(t, w, w.URL(world.WWW, "/"))
	event(t, events, api.FlowPending)
	s.SetPolicy(compile(t, w.Allow(world.WWW)))
	if e := event(t, events, api.FlowAnswered); !e.Allow {
		t.Errorf("answered: %+v", e)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.book.wait(t, "the change", func(e api.NetworkEntry) bool { return e.Kind == api.EventPolicy && e.Reason != "" })
}

func TestDatagrams(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		b := make([]byte, 100)
		for {
			k, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(b[:k], from)
		}
	}()
	port := server.LocalAddr().(*net.UDPAddr).Port
	rule := anyPort(api.PolicyAllow, world.WWW)
	rule.Protocols = []string{"udp"}
	w := world.Start(t)
	s := start(t, w, Config{Owner: owner}, rule)
	c, err := s.dial(t, "udp", hostPort(world.WWW, port))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "ping")
	mustRead(t, c, "ping")
	e := s.book.kind(t, api.EventFlow, api.PolicyAllow)
	if e.Proto != "udp" || e.Rule != "r1" || e.Host != world.WWW || e.Process == nil {
		t.Errorf("flow: %+v", e)
	}
	s.SetPolicy(compile(t))
	if e := s.book.kind(t, api.EventEnd, api.PolicyAllow); e.Sent != 4 || e.Received != 4 || e.Reason == "" {
		t.Errorf("end: %+v", e)
	}
}

// TestFirstBytesMustCome holds what is decided by them against clients that lie, or
// say what cannot be looked at.
func TestFirstBytesMustCome(t *testing.T) {
	w := world.Start(t)
	for name, test := range map[string]struct{ say, code string }{
		"nothing":       {"", string(codeSilent)},
		"no name":       {"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "bad_request"},
		"HTTP/2":        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_http"},
		"another host":  {"GET / HTTP/1.1\r\nHost: git.example.test\r\n\r\n", "host_mismatch"},
		"not HTTP":      {"SSH-2.0-x\r\n\r\n", "not_http"},
		"two-host head": {"GET / HTTP/1.1\r\nHost: www.example.test\r\nHost: git.example.test\r\n\r\n", "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, w, Config{}, readOnly(w, world.WWW, "/"))
			c, err := s.dial(t, "tcp", hostPort(world.WWW, w.HTTP))
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, test.say)
			if half, ok := c.(interface{ CloseWrite() error }); ok {
				half.CloseWrite()
			}
			io.ReadAll(c)
			if n := len(w.Requests("")); n != 0 {
				t.Errorf("%d requests got out", n)
			}
			s.book.wait(t, "the denial", func(e api.NetworkEntry) bool {
				return e.Kind != api.EventDNS && e.Verdict == api.PolicyDeny && e.Code == test.code && e.Reason != ""
			})
		})
	}
}

// TestChangedPolicyEndsWhatIsNotLookedAt holds flows that pass as they are against a
// policy that wants to see their requests: what they carry cannot be told any more.
func TestChangedPolicyEndsWhatIsNotLookedAt(t *testing.T) {
	w := world.Start(t)
	ca := openCA(t)
	s := start(t, w, Config{CA: ca}, w.Allow(world.WWW))
	c, err := s.dial(t, "tcp", hostPort(world.WWW, w.HTTPS))
	if err != nil {
		t.Fatal(err)
	}
	cfg := trust(w.CA)
	cfg.ServerName = world.WWW
	conn := tls.Client(c, cfg)
	send := func() error {
		io.WriteString(conn, "POST /echo HTTP/1.1\r\nHost: "+world.WWW+"\r\nContent-Length: 3\r\n\r\nout")
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			r.Body.Close()
		}
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	s.SetPolicy(compile(t, readOnly(w, world.WWW, "/")))
	s.book.kind(t, api.EventEnd, api.PolicyAllow)
	if err := send(); err == nil {
		t.Error("what is not allowed any more still gets out")
	}
}

// TestChangedPolicyEndsRequests holds a WebSocket against a policy that still allows
// other requests of its flow.
func TestChangedPolicyEndsRequests(t *testing.T) {
	for name, next := range map[string]func(*world.World) api.Rule{
		"denied": func(w *world.World) api.Rule { return readOnly(w, world.WS, "/other") },
		"asked": func(w *world.World) api.Rule {
			r := readOnly(w, world.WS, "/")
			r.Action = api.PolicyAsk
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.Start(t)
			s := start(t, w, Config{}, readOnly(w, world.WS, "/echo"))
			c, err := s.dial(t, "tcp", hostPort(world.WS, w.HTTP))
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := websocket.NewConfig("ws"+strings.TrimPrefix(w.PlainURL(world.WS, "/echo"), "http"), w.PlainURL(world.WS, "/"))
			if err != nil {
				t.Fatal(err)
			}
			ws, err := websocket.NewClient(cfg, c)
			if err != nil {
				t.Fatal(err)
			}
			say := func() (got string, err error) {
				_ = websocket.Message.Send(ws, "out")
				return got, websocket.Message.Receive(ws, &got)
			}
			if got, err := say(); got != "out" {
				t.Fatalf("%q, %v", got, err)
			}
			s.SetPolicy(compile(t, readOnly(w, world.WS, "/echo"))) // nothing changes
			if got, err := say(); got != "out" {
				t.Fatalf("after no change: %q, %v", got, err)
			}
			s.SetPolicy(compile(t, next(w)))
			c.SetReadDeadline(time.Now().Add(long))
			if got, err := say(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("still passes: %q, %v", got, err)
			}
		})
	}
}
