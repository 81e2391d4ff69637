package intercept

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
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
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func (s *server) begin(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{s: s, w: w, r: r}
	x.Began = s.i.cfg.Now()
	scheme := "http"
	if s.f.TLS {
		scheme = "https"
	}
	x.Request = Request{
		Method: r.Method, Scheme: scheme, Host: r.Host, Proto: r.Proto,
		Upgrade: upgradeOf(r.Header), Length: r.ContentLength, Header: r.Header,
	}
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

// Header is of http.ResponseWriter.
func (x *exchange) Header() http.Header { return x.w.Header() }

// WriteHeader is of http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 {
		x.Status = status
	}
	x.w.WriteHeader(status)
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
	up *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.up.Add(int64(n))
	return n, err
}
