package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// Peer is a server that answers as a supervisor does: with JSON, events or another
// protocol, and with an api.Error where it refuses. Each request takes a connection
// of its own: an idle one would keep goroutines in the program of whoever uses the
// SDK, and what is done in a sandbox takes a connection anyway.
type Peer struct {
	Name   string                                  // in errors: "the sandbox's supervisor"
	Host   string                                  // as requests name it
	Dial   func(context.Context) (net.Conn, error) // its error is passed on
	Ended  error                                   // in the error of a connection that broke
	Header http.Header                             // of every request; may be nil
	// AnswerTime bounds the answer to an upgrade. Zero: the caller's context does.
	AnswerTime time.Duration
}

// Request is what is asked of a Peer.
type Request struct {
	Method string
	Path   string      // with its query
	Header http.Header // beside the Peer's; may be nil
	Body   io.Reader   // may be nil
	// Outcome says that the answer must be known: the end of the context closes our
	// side of the connection alone, at which the other gives up what it does, and the
	// answer is still waited for, for undo.CleanupTime.
	Outcome bool
}

// maxAnswer bounds a JSON answer.
const maxAnswer = 64 << 20

// readBuffer bounds the trailer of an answer too: net/http wants it whole.
const readBuffer = 64 << 10

// Do asks, and returns an answer that is no refusal. Close its body. A redirect is
// an error: a request must not be sent where nobody said it should go.
func (p Peer) Do(ctx context.Context, r Request) (*http.Response, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	if r.Outcome {
		context.AfterFunc(ctx, func() {
			BufferedConn{Conn: conn}.CloseWrite()
			conn.SetReadDeadline(time.Now().Add(undo.CleanupTime))
		})
		ctx = context.WithoutCancel(ctx)
	}
	req, err := p.request(ctx, r)
	if err != nil {
		conn.Close()
		return nil, err
	}
	t := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true, DisableCompression: true, ReadBufferSize: readBuffer,
	}
	res, err := t.RoundTrip(req)
	if err == nil {
		return res, p.refused(res)
	}
	conn.Close() // where it was never used
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, p.lost()
}

func (p Peer) dial(ctx context.Context) (net.Conn, error) {
	conn, err := p.Dial(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return conn, err
}

func (p Peer) request(ctx context.Context, r Request) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+p.Host+r.Path, r.Body)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "ask %s: %w", p.Name, err)
	}
	for _, h := range []http.Header{p.Header, r.Header} {
		for k, v := range h {
			req.Header[k] = v
		}
	}
	return req, nil
}

// lost is the error of a connection that broke.
func (p Peer) lost() error { return api.Errorf(api.Unavailable, "ask %s: %w", p.Name, p.Ended) }

// refused returns the error of an answer that is one, and closes it then.
func (p Peer) refused(res *http.Response) error {
	if res.StatusCode < 300 {
		return nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
	if err != nil {
		return p.lost()
	}
	var e api.Error
	if json.Unmarshal(b, &e) != nil || e.Class == "" {
		return api.Errorf(api.Internal, "%s answered %s: %.200q", p.Name, res.Status, b)
	}
	return &e
}

// maxRefusal bounds the answer that holds an error.
const maxRefusal = 1 << 20

// Call asks with in as JSON (nil: without a body) and reads the answer into out
// (nil: dropped).
func (p Peer) Call(ctx context.Context, r Request, in, out any) error {
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		r.Body = bytes.NewReader(b)
		r.Header = with(r.Header, "Content-Type", "application/json")
	}
	res, err := p.Do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return p.lost()
	case len(b) > maxAnswer:
		return api.Errorf(api.Exhausted, "ask %s: its answer has more than %d bytes", p.Name, maxAnswer)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return api.Errorf(api.Internal, "ask %s: its answer %.200q: %w", p.Name, b, err)
	}
	return nil
}

func with(h http.Header, key, value string) http.Header {
	if h = h.Clone(); h == nil {
		h = http.Header{}
	}
	h.Set(key, value)
	return h
}

// maxEvent bounds one line: that of a fork tells of many sandboxes.
const maxEvent = 16 << 20

// Lines calls f with each line of the answer, whose beginning and end are cut, until
// the answer or ctx ends, or f returns an error, which it passes on.
func (p Peer) Lines(ctx context.Context, r Request, f func(line []byte) error) error {
	res, err := p.Do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if err := f(bytes.TrimSpace(lines.Bytes())); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return api.Errorf(api.Unavailable, "read from %s: %w", p.Name, err)
	}
	return context.Cause(ctx)
}

// Events calls f with the name and the data of each server-sent event (HTML
// standard, section 9.2) of the answer, whose data is one line, as Lines does.
func (p Peer) Events(ctx context.Context, r Request, f func(name string, data []byte) error) error {
	name := ""
	return p.Lines(ctx, r, func(line []byte) error {
		if n, ok := bytes.CutPrefix(line, []byte("event:")); ok {
			name = strings.TrimSpace(string(n))
		}
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			return f(name, bytes.TrimSpace(data))
		}
		return nil
	})
}

// Upgrade asks for a route that switches to a protocol and returns the connection.
// The protocol's first message, which first sends, does not wait for the answer: one
// round trip less. The context bounds the call only.
func (p Peer) Upgrade(ctx context.Context, r Request, protocol string, first func(BufferedConn) error) (conn BufferedConn, err error) {
	c, err := p.dial(ctx)
	if err != nil {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	if p.AnswerTime > 0 {
		c.SetDeadline(time.Now().Add(p.AnswerTime))
	}
	conn = BufferedConn{c, bufio.NewReader(c)}
	err = p.upgrade(conn, r, protocol, first)
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return conn, nil
	}
	c.Close()
	if ctx.Err() != nil {
		return conn, context.Cause(ctx)
	}
	return conn, p.unanswered(err)
}

func (p Peer) upgrade(conn BufferedConn, r Request, protocol string, first func(BufferedConn) error) error {
	req, err := p.request(context.Background(), r)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		return err
	}
	// One that refuses may have closed its side already: its answer says why.
	sent := first(conn)
	res, err := http.ReadResponse(conn.R, req)
	switch {
	case err != nil:
		return errors.Join(err, sent)
	case res.StatusCode == http.StatusSwitchingProtocols:
		return sent
	}
	if err := p.refused(res); err != nil {
		return err
	}
	res.Body.Close()
	return api.Errorf(api.Internal, "%s answered %s where it had to switch protocols", p.Name, res.Status)
}

// unanswered says what it means that somebody took a connection and did not answer.
func (p Peer) unanswered(err error) error {
	var e *api.Error
	var t net.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.As(err, &t) && t.Timeout():
		return api.Errorf(api.Timeout, "ask %s: it does not answer", p.Name)
	}
	return p.lost()
}

// BufferedConn is a connection some of whose bytes have been read into R already.
type BufferedConn struct {
	net.Conn
	R *bufio.Reader
}

// Read reads what was buffered, then the connection.
func (c BufferedConn) Read(p []byte) (int, error) { return c.R.Read(p) }

// SyscallConn implements syscall.Conn, for a connection that does.
func (c BufferedConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite tells the other side that nothing more comes, where the connection can.
func (c BufferedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
