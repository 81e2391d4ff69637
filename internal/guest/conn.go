package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/guest/mux"
	"golang.org/x/sys/unix"
)

// A message on a connection of its own is its kind, the length of its payload in
// 24 bits, and the payload.
const (
	connHeader = 4
	// kindConnEnd is the sender's last message.
	kindConnEnd Kind = 1
)

// Conn is one stream on a connection of its own, as between a client and a
// supervisor. Its peer is a Conn too. Closing the connection without an end
// resets the stream.
type Conn struct {
	c io.ReadWriteCloser

	send    sync.Mutex
	ended   bool
	sendBuf []byte

	recvBuf   []byte
	r, w      int // recvBuf[r:w] is read but not received yet
	peerEnded bool

	closed atomic.Bool
}

// NewConn makes a stream of a connection, which it owns from now on.
func NewConn(c io.ReadWriteCloser) *Conn {
	return &Conn{c: c, recvBuf: make([]byte, connHeader+MaxPayload)}
}

// Send sends a message.
func (c *Conn) Send(k Kind, p []byte) error {
	c.send.Lock()
	defer c.send.Unlock()
	if c.ended || c.closed.Load() {
		return lost("send", mux.ErrClosed)
	}
	return sendParts(k, p, c.write)
}

func (c *Conn) write(k Kind, p []byte) error {
	n := len(p)
	c.sendBuf = append(c.sendBuf[:0], byte(k), byte(n>>16), byte(n>>8), byte(n))
	c.sendBuf = append(c.sendBuf, p...)
	if _, err := c.c.Write(c.sendBuf); err != nil {
		return lost("send", err)
	}
	return nil
}

// Recv returns the next message, and io.EOF after the peer's end.
func (c *Conn) Recv() (Message, error) {
	if c.peerEnded {
		return Message{}, io.EOF
	}
	if err := c.fill(connHeader); err != nil {
		return Message{}, c.lost(err)
	}
	h := c.recvBuf[c.r:]
	k, n := Kind(h[0]), int(h[1])<<16|int(h[2])<<8|int(h[3])
	if n > MaxPayload {
		return Message{}, c.lost(mux.ErrProtocol)
	}
	if err := c.fill(connHeader + n); err != nil {
		return Message{}, c.lost(err)
	}
	p := c.recvBuf[c.r+connHeader : c.r+connHeader+n]
	c.r += connHeader + n
	if k == kindConnEnd {
		c.peerEnded = true
		return Message{}, io.EOF
	}
	if k < mux.FirstKind {
		return Message{}, c.lost(mux.ErrProtocol)
	}
	return Message{k, p}, nil
}

// fill reads until n bytes stand at r.
func (c *Conn) fill(n int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.r+n > len(c.recvBuf) {
		c.w = copy(c.recvBuf, c.recvBuf[c.r:c.w])
		c.r = 0
	}
	for c.w-c.r < n {
		m, err := c.c.Read(c.recvBuf[c.w:])
		c.w += m
		if m == 0 && err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) lost(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return lost("receive", err)
}

// awaitGone waits, after Recv has returned io.EOF, until the peer has closed the
// connection or Close was called.
func (c *Conn) awaitGone() {
	var b [1]byte
	for {
		if _, err := c.c.Read(b[:]); err != nil {
			return
		}
	}
}

// CloseSend tells the peer that nothing more comes.
func (c *Conn) CloseSend() error {
	c.send.Lock()
	defer c.send.Unlock()
	if c.ended || c.closed.Load() {
		return nil
	}
	c.ended = true
	return c.write(kindConnEnd, nil)
}

// Close closes the connection.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.c.Close()
}

// Relay passes messages between a client and the work that it started until the
// work has ended and the client has closed, or either is lost. It closes both. A
// client that vanishes ends the work, also when it had nothing more to send. Of
// each direction one message is held at a time. The context's end closes both.
func Relay(ctx context.Context, client *Conn, work Stream) error {
	closeBoth := func() {
		work.Close()
		client.Close()
	}
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	done := make(chan error, 1)
	go func() {
		err := relayBack(client, work)
		done <- err
	}()
	relayForth(client, work)
	work.Close()
	return <-done
}

// relayForth passes what the client sends until the client is gone.
func relayForth(client *Conn, work Stream) {
	refused := false
	for {
		m, err := client.Recv()
		if err == io.EOF {
			work.CloseSend()
			client.awaitGone()
			return
		}
		if err != nil {
			return
		}
		// Work that has ended refuses the rest; the client reads why from the
		// other direction, so it must not be stuck in sending meanwhile.
		if !refused && sendUnlessGone(client, work, m) != nil {
			refused = true
		}
	}
}

// lookTime is how often a client is looked at whose message the work does not take:
// nobody reads its connection meanwhile, so that its end would not show.
const lookTime = time.Second

// sendUnlessGone sends a message to the work, which it closes when the client goes
// away meanwhile.
func sendUnlessGone(client *Conn, work Stream, m Message) error {
	var look *time.Timer
	look = time.AfterFunc(lookTime, func() {
		if HungUp(client.c) {
			work.Close()
			return
		}
		look.Reset(lookTime)
	})
	defer look.Stop()
	return work.Send(m.Kind, m.Payload)
}

// HungUp reports whether a socket's peer has closed it, for who does not read it: what
// the peer sent before may be unread. Of what is no socket it cannot be told.
func HungUp(c any) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return errors.Is(err, net.ErrClosed)
	}
	var n int
	err = rc.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, _ = unix.Poll(fds, 0)
	})
	return err != nil || n > 0
}

// relayBack passes what the work sends. Work that is lost closes the client's
// connection: it must not look like a good end.
func relayBack(client *Conn, work Stream) error {
	for {
		m, err := work.Recv()
		if err == io.EOF {
			return client.CloseSend()
		}
		if err == nil {
			err = client.Send(m.Kind, m.Payload)
		}
		if err != nil {
			client.Close()
			return err
		}
	}
}
