package intercept

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// recorder keeps all bytes that a server in clear gets, and answers each head.
type recorder struct {
	mu  sync.Mutex
	got strings.Builder
}

func (r *recorder) serve(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(io.TeeReader(conn, r))
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Write(b)
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.String()
}

// TestSmuggling sends what readers take differently. A server gets a request
// that all read alike and that was decided, or none. /secret is always denied,
// so that its arrival would be a smuggled request.
func TestSmuggling(t *testing.T) {
	hidden := "GET /secret HTTP/1.1\r\nHost: a.example\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
	cases := []struct {
		name, send string
		status     string // of the first response; empty: the connection ends
		server     string // what the server may get of it, at most
	}{
		{"two lengths", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + hidden, "400", ""},
		{"two lengths in one", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0, 44\r\n\r\n" + hidden, "400", ""},
		{"signed length", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +44\r\n\r\n" + hidden, "400", ""},
		{"length and chunks", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, "200", "Transfer-Encoding: chunked"},
		{"chunks and length", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + chunked, "200", "Transfer-Encoding: chunked"},
		{"odd coding", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n" + chunked, "501", ""},
		{"coding twice", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked, "501", ""},
		{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, "", "POST / HTTP/1.1"},
		{"space before colon", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length : 44\r\n\r\n" + hidden, "400", ""},
		{"folded line", "GET / HTTP/1.1\r\nHost: a.example\r\nX-A: b\r\n Transfer-Encoding: chunked\r\n\r\n", "200", "X-A: b Transfer-Encoding: chunked\r\n"},
		{"folded first", "GET / HTTP/1.1\r\n X: y\r\nHost: a.example\r\n\r\n", "400", ""},
		{"zero in a value", "GET / HTTP/1.1\r\nHost: a.example\r\nX-A: b\x00c\r\n\r\n", "400", ""},
		{"return in a value", "GET / HTTP/1.1\r\nHost: a.example\r\nX-A: b\rTransfer-Encoding: chunked\r\n\r\n", "400", ""},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "400", ""},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400", ""},
		{"host of a path", "GET / HTTP/1.1\r\nHost: a.example/secret\r\n\r\n", "400", ""},
		{"absolute target, other host", "GET http://c.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "403", ""},
		{"absolute target", "GET http://a.example?q HTTP/1.1\r\nHost: c.example\r\n\r\n", "403", ""},
		{"absolute target, other scheme", "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"target with user", "GET http://a.example@c.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "403", ""},
		{"target with fragment", "GET /x#/../secret HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"target beyond ASCII", "GET /\xc3\xa9 HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"target with a return", "GET /x\rGET /secret HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"star", "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"no slash", "GET secret HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"bad escape", "GET /%zz%0 HTTP/1.1\r\nHost: a.example\r\n\r\n", "400", ""},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", ""},
		{"version of HTTP/2", "GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", "505", ""},
		{"body after GET", fmt.Sprintf("GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden), "200", "Content-Length: 41"},
		{"connection hides a header", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: X-A\r\nX-A: 1\r\n\r\n", "200", "GET / HTTP/1.1"},
		{"large head", "GET / HTTP/1.1\r\nHost: a.example\r\nX-A: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", "431", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var rec recorder
			w := newWorld(t, nil, rawOrigin(t, rec.serve), Flow{Port: 80, Decide: func(_ context.Context, r *Request) Answer {
				return Answer{Allow: r.Host == "a.example" && r.Path == "/"}
			}})
			conn := w.conn(false)
			go func() { _, _ = io.WriteString(conn, c.send) }() // a large head is not read to its end
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			status := ""
			if err == nil {
				status, _, _ = strings.Cut(res.Status, " ")
				_, _ = io.Copy(io.Discard, res.Body)
			}
			if c.status != "" && status != c.status {
				t.Errorf("status %q, want %q (%v)", status, c.status, err)
			}
			got := rec.text()
			if c.server == "" && got != "" || !strings.Contains(got, c.server) {
				t.Errorf("the server got %q", got)
			}
			for in := bufio.NewReader(strings.NewReader(got)); ; {
				r, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				if r.URL.Path != "/" || r.Host != "a.example" {
					t.Errorf("a request that was not allowed got out: %q", got)
				}
				_, _ = io.Copy(io.Discard, r.Body)
			}
		})
	}
}

// TestOtherHost sends requests on a connection to one name for another.
func TestOtherHost(t *testing.T) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: other.example\r\n",
		"GET / HTTP/1.1\r\nHost: origin.example:8443\r\n",
		"GET / HTTP/1.1\r\nHost: origin.example.evil\r\n",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"GET / HTTP/1.0\r\n",
		"GET https://other.example/ HTTP/1.1\r\nHost: origin.example\r\n",
		"GET https://origin.example@other.example/ HTTP/1.1\r\nHost: origin.example\r\n",
	} {
		w := newWorld(t, nil, &origin{}, Flow{TLS: true})
		got := w.say(true, head+"Connection: close\r\n\r\n")
		if !strings.Contains(got, " 421 ") {
			t.Errorf("%q: got %s", head, got)
		}
		if e := w.exchange(0); e.Status != 421 || e.Answer.Allow || e.Answer.Code != "host_mismatch" || w.dialed() > 0 {
			t.Errorf("%q: %+v", head, e)
		}
	}
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	for _, host := range []string{"ORIGIN.example", "origin.example.", "origin.example:443"} {
		w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, true), Flow{TLS: true})
		if got := w.say(true, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); !strings.Contains(got, " 200 ") {
			t.Errorf("host %s: got %s", host, got)
		}
	}
}

// TestHostileHTTP2 sends heads that a client library would not.
func TestHostileHTTP2(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	ok := []string{":method", "GET", ":scheme", "https", ":authority", testName, ":path", "/"}
	with := func(kv ...string) []string { return append(append([]string{}, ok...), kv...) }
	cases := []struct {
		name   string
		fields []string
		status string // empty: the stream is reset
	}{
		{"sane", ok, "200"},
		{"other authority", []string{":method", "GET", ":scheme", "https", ":authority", "other.example", ":path", "/"}, "421"},
		{"host alone, other", []string{":method", "GET", ":scheme", "https", ":path", "/", "host", "other.example"}, "421"},
		{"host beside authority", with("host", "other.example"), "400"},
		{"same host beside authority", with("host", testName), "200"},
		{"absolute path", []string{":method", "GET", ":scheme", "https", ":authority", testName, ":path", "https://other.example/"}, ""},
		{"two paths", with(":path", "/secret"), ""},
		{"upper case", with("X-Test", "a"), ""},
		{"line in a value", with("x-test", "a\r\nX-B: c"), ""},
		{"line in a path", []string{":method", "GET", ":scheme", "https", ":authority", testName, ":path", "/ HTTP/1.1\r\nHost: other.example"}, ""},
		{"space in a path", []string{":method", "GET", ":scheme", "https", ":authority", testName, ":path", "/a b"}, "400"},
		{"coding", with("transfer-encoding", "chunked"), ""},
		{"upgrade", with("connection", "upgrade", "upgrade", "websocket"), ""},
		{"connect", []string{":method", "CONNECT", ":authority", "other.example:22"}, "403"},
		{"space in a method", []string{":method", "GET /secret", ":scheme", "https", ":authority", testName, ":path", "/"}, "400"},
	}
	for _, origin2 := range []bool{false, true} {
		w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, origin2), Flow{TLS: true})
		for _, c := range cases {
			if got := w.status2(c.fields); got != c.status && !(c.status == "" && strings.HasPrefix(got, "4")) {
				t.Errorf("%s, server h2=%v: status %q, want %q", c.name, origin2, got, c.status)
			}
		}
		w.await("the exchanges", func() bool { return len(w.seen) >= 7 })
		for _, e := range w.seen {
			if e.Passed && (e.Request.Path != "/" || e.Request.Method != "GET") {
				t.Errorf("passed on: %+v", e.Request)
			}
		}
	}
}

// status2 sends a head on a connection of its own over HTTP/2 and returns the
// status of the response; empty: the stream or connection ended.
func (w *world) status2(fields []string) string {
	w.t.Helper()
	conn := w.connFor("h2")
	defer conn.Close()
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(w.t, err)
	fr := http2.NewFramer(conn, conn)
	must(w.t, fr.WriteSettings())
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		must(w.t, enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	must(w.t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true}))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return ""
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		}
	}
}
