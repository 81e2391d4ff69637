package smolvm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// Dial connects to a TCP server in the sandbox, at its loopback addresses or, where
// nothing listens there, at those of its network card. No port of the host is needed,
// and the sandbox's network policy is not asked. The context bounds the call only.
//
// The connection's deadlines end it for good. Class Unavailable where nothing listens.
func (s *Sandbox) Dial(ctx context.Context, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, api.Errorf(api.Invalid, "dial port %d: ports are 1 to 65535", port)
	}
	// A flow ends with the context that it was made with.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	f, err := s.guest().Dial(life, guest.Dial{Proto: "tcp", Port: port})
	if !stop() && err == nil {
		f.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	return &guestConn{flow: f, end: end, to: guestAddr{s.ID(), port}}, nil
}

// guestConn is a connection to a server in a sandbox.
type guestConn struct {
	flow *guest.Flow
	end  context.CancelFunc
	to   guestAddr

	read sync.Mutex
	rest []byte

	late  atomic.Bool // a deadline has ended it
	mu    sync.Mutex
	timer [2]*time.Timer // of reading and writing
}

func (c *guestConn) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	for len(c.rest) == 0 {
		b, err := c.flow.Recv()
		if err != nil {
			return 0, c.why(err)
		}
		c.rest = b
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *guestConn) Write(p []byte) (int, error) {
	n, err := c.flow.Write(p)
	return n, c.why(err)
}

func (c *guestConn) why(err error) error {
	if err != nil && err != io.EOF && c.late.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// CloseWrite ends the server's input. Output may still come.
func (c *guestConn) CloseWrite() error { return c.flow.CloseSend() }

// Close ends the connection.
func (c *guestConn) Close() error {
	c.SetDeadline(time.Time{})
	err := c.flow.Close()
	c.end()
	return err
}

func (c *guestConn) LocalAddr() net.Addr  { return guestAddr{id: "host"} }
func (c *guestConn) RemoteAddr() net.Addr { return c.to }

func (c *guestConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *guestConn) SetReadDeadline(t time.Time) error  { return c.deadline(0, t) }
func (c *guestConn) SetWriteDeadline(t time.Time) error { return c.deadline(1, t) }

func (c *guestConn) deadline(which int, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer[which] != nil {
		c.timer[which].Stop()
		c.timer[which] = nil
	}
	if !t.IsZero() {
		c.timer[which] = time.AfterFunc(time.Until(t), func() {
			c.late.Store(true)
			c.flow.Close()
		})
	}
	return nil
}

// guestAddr is a port of a sandbox.
type guestAddr struct {
	id   string
	port int
}

func (guestAddr) Network() string  { return "smolvm" }
func (a guestAddr) String() string { return net.JoinHostPort(a.id, strconv.Itoa(a.port)) }
