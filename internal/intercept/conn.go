package intercept

import (
	"net"
	"sync"
	"sync/atomic"
)

// Replay returns conn with bytes in front that were read of it before.
func Replay(seen []byte, conn net.Conn) net.Conn {
	if len(seen) == 0 {
		return conn
	}
	return &replayed{Conn: conn, seen: seen}
}

// replayed is for one reader, as all our connections.
type replayed struct {
	net.Conn
	seen []byte
}

func (c *replayed) Read(b []byte) (int, error) {
	if len(c.seen) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.seen)
	c.seen = c.seen[n:]
	return n, nil
}

// CloseWrite passes on the end of one direction, where the connection has that.
func (c *replayed) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// counted counts what a switched connection carries.
type counted struct {
	net.Conn
	up, down *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.up.Add(int64(n))
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.down.Add(int64(n))
	return n, err
}

func (c *counted) CloseWrite() error { return closeWrite(c.Conn) }

// once is a listener of one connection.
type once struct {
	conn net.Conn
	err  error
}

func (l *once) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return &net.TCPAddr{} }

// conns are the connections to servers of one flow.
type conns struct {
	mu     sync.Mutex
	open   map[*dialled]struct{}
	closed bool
}

// add takes a connection, if there is room and the flow goes on.
func (c *conns) add(conn net.Conn, most int) (*dialled, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.open) >= most {
		return nil, false
	}
	d := &dialled{Conn: conn, of: c}
	if c.open == nil {
		c.open = map[*dialled]struct{}{}
	}
	c.open[d] = struct{}{}
	return d, true
}

func (c *conns) closeAll() {
	c.mu.Lock()
	c.closed = true
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for d := range open {
		d.Conn.Close()
	}
}

// dialled is a connection to a server.
type dialled struct {
	net.Conn
	of *conns
}

// Close closes the connection and gives its place back.
func (d *dialled) Close() error {
	d.of.mu.Lock()
	delete(d.of.open, d)
	d.of.mu.Unlock()
	return d.Conn.Close()
}

func (d *dialled) CloseWrite() error { return closeWrite(d.Conn) }
