package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"github.com/smolvm/smolvm/internal/sockpath"
)

// Client speaks to one supervisor. It holds no connection between calls.
type Client struct{ peer Peer }

// NewClient returns a client of the supervisor that listens at socket.
func NewClient(socket string) *Client {
	p := supervisor()
	p.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := sockpath.Dial(ctx, socket)
		if err != nil && ctx.Err() == nil {
			return nil, errors.Join(ErrNoSupervisor, err)
		}
		return conn, err
	}
	return &Client{p}
}

// supervisor is any. It answers an upgrade before it asks the guest anything.
func supervisor() Peer {
	return Peer{Name: "the sandbox's supervisor", Host: "supervisor", Ended: ErrEnded, AnswerTime: 10 * time.Second}
}

// ErrNoSupervisor is in the tree of errors of calls that found nobody listening.
var ErrNoSupervisor = errors.New("no supervisor answers")

// ErrEnded is in the tree of errors of calls that a supervisor took, or left in
// its socket's queue, and did not answer because it ended.
var ErrEnded = errors.New("it ended meanwhile")

// ask is the request for one of the routes.
func ask(route string) Request {
	method, path, _ := strings.Cut(route, " ")
	return Request{Method: method, Path: path}
}

// Call asks for a route, sends in (nil: nothing) and reads the answer into out
// (nil: dropped). Errors that the supervisor reports come back as *api.Error.
func (c *Client) Call(ctx context.Context, route string, in, out any) error {
	return c.peer.Call(ctx, ask(route), in, out)
}

// Events reads a route of server-sent events, and calls f with the data of each,
// until the stream or ctx ends. It returns f's first error.
func (c *Client) Events(ctx context.Context, route string, f func(data []byte) error) error {
	return c.peer.Events(ctx, ask(route), func(_ string, data []byte) error { return f(data) })
}

// Open opens a guest stream through the supervisor. It implements guest.Opener.
// The context bounds the call only.
func (c *Client) Open(ctx context.Context, op guest.Op, req wire.Message) (guest.Stream, error) {
	return c.peer.Open(ctx, ask(RouteStream), op, req)
}

// Open opens a guest stream by a route that switches to StreamProtocol. The context
// bounds the call only.
func (p Peer) Open(ctx context.Context, r Request, op guest.Op, req wire.Message) (guest.Stream, error) {
	var st *guest.Conn
	_, err := p.Upgrade(ctx, r, StreamProtocol, func(conn BufferedConn) error {
		st = guest.NewConn(conn)
		return st.Send(guest.KindOpen, append([]byte{byte(op)}, wire.Marshal(req)...))
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Claim asks the pool's member at the other end of conn to become what c says, and
// returns the last line of that birth. From then on conn is the client's lifeline.
func Claim(conn net.Conn, c Create) (b Birth, err error) {
	in := BufferedConn{conn, bufio.NewReader(conn)}
	err = supervisor().upgrade(in, ask(RouteClaim), ClaimProtocol, func(conn BufferedConn) error { return json.NewEncoder(conn).Encode(c) })
	if err != nil {
		return b, err
	}
	return b, json.NewDecoder(in).Decode(&b)
}
