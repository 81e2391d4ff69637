package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/sockpath"
)

// MaxConns bounds the connections at once, well below what one process may have open.
const MaxConns = 4096

// conns counts the connections.
type conns struct {
	mu    sync.Mutex
	open  int
	quiet time.Time     // since when there is none
	moved chan struct{} // closed when one comes or goes; nil: nobody waits
}

// track returns a listener whose connections are counted and, beyond MaxConns, refused.
func (c *conns) track(l net.Listener) net.Listener { return &tracked{l, c} }

type tracked struct {
	net.Listener
	c *conns
}

const refusal503 = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\r\n" +
	`{"class":"exhausted","code":"too_many_connections","message":"connect: too many connections are open","request_id":""}` + "\n"

// Accept waits for a connection.
func (t *tracked) Accept() (net.Conn, error) {
	for {
		conn, err := t.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if t.c.add(1) <= MaxConns {
			return &counted{Conn: conn, peer: peer(conn), c: t.c}, nil
		}
		t.c.add(-1)
		conn.SetDeadline(time.Now().Add(time.Second)) // fits in the socket's buffer
		conn.Write([]byte(refusal503))
		conn.Close()
	}
}

func (c *conns) add(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += n
	if c.open == 0 {
		c.quiet = time.Now()
	}
	if c.moved != nil {
		close(c.moved)
		c.moved = nil
	}
	return c.open
}

func (c *conns) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// idle returns a channel that is closed when there was no connection for so long.
func (c *conns) idle(ctx context.Context, after time.Duration) <-chan struct{} {
	if after <= 0 {
		return nil
	}
	over := make(chan struct{})
	c.mu.Lock()
	c.quiet = time.Now()
	c.mu.Unlock()
	go func() {
		for ctx.Err() == nil {
			left, moved := c.left(after)
			if left <= 0 {
				close(over)
				return
			}
			timer := time.NewTimer(left)
			select {
			case <-timer.C:
			case <-moved:
			case <-ctx.Done():
			}
			timer.Stop()
		}
	}()
	return over
}

// left is how long it may still be quiet, and what is closed when that changes.
func (c *conns) left(after time.Duration) (time.Duration, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moved == nil {
		c.moved = make(chan struct{})
	}
	if c.open > 0 {
		return after, c.moved
	}
	return time.Until(c.quiet.Add(after)), c.moved
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	peer peerKind
	c    *conns
	once sync.Once
}

// Close closes the connection.
func (c *counted) Close() error {
	c.once.Do(func() { c.c.add(-1) })
	return c.Conn.Close()
}

// CloseWrite ends what this side sends, for who takes the connection over.
func (c *counted) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Conn.Close()
}

// SyscallConn lets the state of the connection be looked at.
func (c *counted) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// peerKind says who is at the other end of a connection.
type peerKind int

const (
	peerTCP   peerKind = iota // anybody
	peerOurs                  // this user, or root, over the Unix socket
	peerOther                 // another user, over the Unix socket
)

func peer(conn net.Conn) peerKind {
	if _, ok := conn.(*net.UnixConn); !ok {
		return peerTCP
	}
	if uid, err := sockpath.PeerUID(conn); err == nil && (uid == 0 || uid == os.Geteuid()) {
		return peerOurs
	}
	return peerOther
}

type peerKey struct{}

func connContext(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*counted); ok {
		return context.WithValue(ctx, peerKey{}, c.peer)
	}
	return ctx
}

func peerOf(ctx context.Context) peerKind {
	k, _ := ctx.Value(peerKey{}).(peerKind)
	return k
}
