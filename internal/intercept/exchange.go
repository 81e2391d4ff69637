package intercept

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"
)

// exchange is one request under way, and what its response is written to.
type exchange struct {
	Exchange
	s        *server
	w        http.ResponseWriter
	r        *http.Request
	name     string // of the server that is dialled
	up, down atomic.Int64
	passed   atomic.Bool
	hijacked bool

	// head is held while a head is written: informational ones come from the goroutine
	// that reads the server, and the wish for the body from the one that sends it.
	head    sync.Mutex
	header  http.Header
	expects bool // the guest waits for 100 before it sends the body
	final   bool // the response's head is written
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func (s *server) begin(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{s: s, w: w, r: r, header: http.Header{}}
	x.Began = s.i.cfg.Now()
	scheme := "http"
	if s.f.TLS {
		scheme = "https"
	}
	x.Request = Request{
		Method: r.Method, Scheme: scheme, Host: r.Host, Proto: r.Proto,
		Upgrade: upgradeOf(r.Header), Length: r.ContentLength, Header: r.Header,
	}
	x.expects = r.ProtoMajor == 1 && r.ContentLength != 0 && httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue")
	return x
}

// finish reports the exchange. It runs also when the handler panics.
func (x *exchange) finish() {
	x.Up, x.Down, x.Passed = x.up.Load(), x.down.Load(), x.passed.Load()
	x.Took = x.s.i.cfg.Now().Sub(x.Began)
	if x.s.f.Observe != nil {
		x.s.f.Observe(&x.Exchange)
	}
	if x.hijacked {
		x.s.finished()
	}
}

// Header is of http.ResponseWriter. Before the head is written it is a map of our
// own, so that wantBody meets nobody in that of net/http; then it is for trailers.
func (x *exchange) Header() http.Header {
	if x.final {
		return x.w.Header()
	}
	return x.header
}

// WriteHeader is of http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	x.head.Lock()
	defer x.head.Unlock()
	h := x.w.Header()
	maps.Copy(h, x.header)
	x.w.WriteHeader(status)
	if status < 200 {
		clear(h)
	}
	switch {
	case status == http.StatusContinue:
		x.expects = false
	case status >= 200:
		x.Status, x.final = status, true
		_, _ = x.w.Write(nil) // net/http sends no 100 any more from here on
	}
}

// wantBody tells a guest that waits for it to send the body. net/http does it too,
// but not beside other informational responses.
func (x *exchange) wantBody() {
	x.head.Lock()
	defer x.head.Unlock()
	if x.expects && !x.final {
		x.w.WriteHeader(http.StatusContinue)
	}
	x.expects = false
}

// Write is of http.ResponseWriter.
func (x *exchange) Write(b []byte) (int, error) {
	n, err := x.w.Write(b)
	x.down.Add(int64(n))
	return n, err
}

// Flush is of http.Flusher.
func (x *exchange) Flush() { _ = http.NewResponseController(x.w).Flush() }

// Hijack is of http.Hijacker. The connection carries on with what the server has
// read of it already.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	x.hijacked = true
	x.Status = http.StatusSwitchingProtocols
	seen := make([]byte, buf.Reader.Buffered())
	_, _ = io.ReadFull(buf.Reader, seen) // they are there
	return &counted{Replay(seen, conn), &x.up, &x.down}, buf, nil
}

// countedBody is a request's body.
type countedBody struct {
	io.ReadCloser
	x *exchange
}

func (b *countedBody) Read(p []byte) (int, error) {
	b.x.wantBody()
	n, err := b.ReadCloser.Read(p)
	b.x.up.Add(int64(n))
	return n, err
}
