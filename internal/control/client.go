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
	"os"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"github.com/smolvm/smolvm/internal/sockpath"
)

// maxAnswer bounds an answer that is read from a supervisor.
const maxAnswer = 8 << 20

// Client speaks to one supervisor. It holds no connection between calls.
type Client struct{ socket string }

// NewClient returns a client of the supervisor that listens at socket.
func NewClient(socket string) *Client { return &Client{socket} }

// ErrNoSupervisor is in the tree of errors of calls that found nobody listening.
var ErrNoSupervisor = errors.New("no supervisor answers")

// ErrEnded is in the tree of errors of calls that a supervisor took, or left in
// its socket's queue, and did not answer because it ended.
var ErrEnded = errors.New("it ended meanwhile")

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := sockpath.Dial(ctx, c.socket)
	if err != nil && ctx.Err() == nil {
		return nil, errors.Join(ErrNoSupervisor, err)
	}
	return conn, err
}

// Call asks for a route, sends in (nil: nothing) and reads the answer into out
// (nil: dropped). Errors that the supervisor reports come back as *api.Error.
func (c *Client) Call(ctx context.Context, route string, in, out any) error {
	method, path, _ := strings.Cut(route, " ")
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, body)
	if err != nil {
		return err
	}
	// One connection a call: a Unix socket costs microseconds, and an idle one
	// would keep goroutines in the program of whoever uses the SDK.
	t := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrNoSupervisor) {
			return err
		}
		return api.Errorf(api.Unavailable, "ask the sandbox's supervisor: %w", ErrEnded)
	}
	defer res.Body.Close()
	return readAnswer(res, out)
}

func readAnswer(res *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode >= 400 {
		var e api.Error
		if json.Unmarshal(b, &e) != nil || e.Class == "" {
			return api.Errorf(api.Internal, "supervisor answered %s: %.200q", res.Status, b)
		}
		return &e
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// Open opens a guest stream through the supervisor. It implements guest.Opener.
// The context bounds the call only.
func (c *Client) Open(ctx context.Context, op guest.Op, req wire.Message) (guest.Stream, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	st, err := openStream(conn, append([]byte{byte(op)}, wire.Marshal(req)...))
	stop()
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, unanswered(err)
	}
	return st, nil
}

// unanswered says what it means that a supervisor took a connection and did not
// answer.
func unanswered(err error) error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return api.Errorf(api.Timeout, "ask the sandbox's supervisor: it does not answer")
	}
	return api.Errorf(api.Unavailable, "ask the sandbox's supervisor: %w", ErrEnded)
}

// upgradeTime bounds the answer to the upgrade, which a supervisor gives before
// it asks the guest anything.
const upgradeTime = 10 * time.Second

func openStream(conn net.Conn, open []byte) (guest.Stream, error) {
	conn.SetDeadline(time.Now().Add(upgradeTime))
	br := bufio.NewReader(conn)
	st := guest.NewConn(BufferedConn{conn, br})
	err := upgrade(conn, br, RouteStream, StreamProtocol, func() error { return st.Send(guest.KindOpen, open) })
	if err != nil {
		return nil, err
	}
	return st, conn.SetDeadline(time.Time{})
}

// Claim asks the pool's member at the other end of conn to become what c says, and
// returns the last line of that birth. From then on conn is the client's lifeline.
func Claim(conn net.Conn, c Create) (b Birth, err error) {
	br := bufio.NewReader(conn)
	err = upgrade(conn, br, RouteClaim, ClaimProtocol, func() error { return json.NewEncoder(conn).Encode(c) })
	if err != nil {
		return b, err
	}
	return b, json.NewDecoder(br).Decode(&b)
}

// upgrade asks for a route that switches to a protocol. The protocol's first message,
// which first sends, does not wait for the answer: one round trip less.
func upgrade(conn net.Conn, br *bufio.Reader, route, protocol string, first func() error) error {
	method, path, _ := strings.Cut(route, " ")
	head := method + " " + path + " HTTP/1.1\r\nHost: supervisor\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	if err := first(); err != nil {
		return err
	}
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		return readAnswer(res, nil)
	}
	return nil
}

// BufferedConn is a connection some of whose bytes have been read into R already.
type BufferedConn struct {
	net.Conn
	R *bufio.Reader
}

// Read reads what was buffered, then the connection.
func (c BufferedConn) Read(p []byte) (int, error) { return c.R.Read(p) }
