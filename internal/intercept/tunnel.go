package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
)

// tunnel serves a CONNECT that is allowed: what the server says of it and, after
// its yes, what both say to each other.
func (x *exchange) tunnel(r *http.Request) {
	if r.ProtoMajor != 1 {
		x.deny(http.StatusForbidden, "connect", "CONNECT is passed on in HTTP/1.1 alone.")
		return
	}
	up, err := x.s.connect(r.Context(), x.name)
	if err == nil && x.s.f.TLS {
		up, err = x.s.verify(r.Context(), up)
	}
	if err != nil {
		x.fail(err)
		return
	}
	defer up.Close()
	head := &io.LimitedReader{R: up, N: int64(x.s.i.cfg.Head)}
	in := bufio.NewReaderSize(head, ioBuffer)
	res, err := x.ask(r, up, in)
	if err != nil {
		x.fail(err)
		return
	}
	head.N = math.MaxInt64
	x.Upstream = res.Proto
	x.FirstByte = x.s.i.cfg.Now().Sub(x.Began)
	if res.StatusCode/100 != 2 {
		x.pass(res)
		return
	}
	x.join(r.Context(), res, buffered{up, in})
}

// verify is the TLS handshake with a server, of which only HTTP/1.1 is wanted.
func (s *server) verify(ctx context.Context, conn net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.i.cfg.Handshake)
	defer cancel()
	cfg := s.verification()
	cfg.NextProtos = []string{"http/1.1"}
	up := tls.Client(conn, cfg)
	if err := up.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return up, nil
}

// ask sends a CONNECT and reads the head of what comes back.
func (x *exchange) ask(r *http.Request, up net.Conn, in *bufio.Reader) (*http.Response, error) {
	defer context.AfterFunc(r.Context(), func() { up.Close() })()
	o := &Outgoing{Method: r.Method, Scheme: x.Request.Scheme, Name: x.name, Host: r.Host, Header: r.Header.Clone()}
	if err := x.rewrite(r.Context(), o); err != nil {
		return nil, err
	}
	x.passed.Store(true)
	h := o.Header
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // else net/http names itself
	}
	out := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: h}
	if err := out.Write(up); err != nil {
		return nil, err
	}
	return http.ReadResponse(in, r)
}

// pass passes on a response that is a no.
func (x *exchange) pass(res *http.Response) {
	defer res.Body.Close()
	for k, v := range res.Header {
		x.Header()[k] = v
	}
	x.Header().Set("Connection", "close")
	x.WriteHeader(res.StatusCode)
	_, _ = io.Copy(x, res.Body) // either end may go away
}

// join passes on a yes and all that follows.
func (x *exchange) join(ctx context.Context, res *http.Response, up net.Conn) {
	guest, _, err := x.Hijack()
	if err != nil {
		x.fail(err)
		return
	}
	defer guest.Close()
	x.Status = res.StatusCode
	res.Header.Del("Content-Length") // a yes has no body (RFC 9110 section 9.3.6)
	_, err = fmt.Fprintf(guest, "HTTP/1.1 %d %s\r\n", res.StatusCode, http.StatusText(res.StatusCode))
	if err == nil {
		err = res.Header.Write(guest)
	}
	if err == nil {
		_, err = io.WriteString(guest, "\r\n")
	}
	if err == nil {
		relay(ctx, guest, up)
	}
}

// relay copies both ways until both have ended or one has failed.
func relay(ctx context.Context, a, b net.Conn) {
	stop := func() { a.Close(); b.Close() }
	defer context.AfterFunc(ctx, stop)()
	done := make(chan error, 2)
	half := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = closeWrite(to)
		}
		done <- err
	}
	go half(a, b)
	go half(b, a)
	if <-done != nil {
		stop()
	}
	<-done
	stop()
}

// buffered is a connection of which a reader has taken some already.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (c buffered) Read(p []byte) (int, error) { return c.in.Read(p) }
func (c buffered) CloseWrite() error          { return closeWrite(c.Conn) }
