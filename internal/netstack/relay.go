package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Copies start with a small buffer and take a larger one when it is full: flows
// that wait, which are most, hold little.
const (
	smallCopy = 4 << 10
	largeCopy = 64 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallCopy]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeCopy]byte) }}
)

// Relay copies both ways until both have ended, each end being passed on by
// itself. An error on either side, and the end of ctx, resets both. It closes
// host. It is for a Handler that has seen enough: what it has read of the guest
// it sends to host before.
func Relay(ctx context.Context, guest, host net.Conn) error {
	var once sync.Once
	var first error
	fail := func(err error) {
		once.Do(func() {
			first = err
			reset(host)
			reset(guest)
		})
	}
	stop := context.AfterFunc(ctx, func() { fail(context.Cause(ctx)) })
	g, h := newHalves(guest), newHalves(host)
	up := make(chan struct{})
	go func() {
		defer close(up)
		copyHalf(h, g, fail)
	}()
	copyHalf(g, h, fail)
	<-up
	stop()
	once.Do(func() {}) // whatever fails now is late, and first may be read
	host.Close()
	return first
}

func copyHalf(to, from *halves, fail func(error)) {
	err := copyAll(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		fail(err)
	}
}

func copyAll(to io.Writer, from io.Reader) error {
	small := smallBuffers.Get().(*[smallCopy]byte)
	full, err := copyWith(to, from, small[:], true)
	smallBuffers.Put(small)
	if !full || err != nil {
		return err
	}
	large := largeBuffers.Get().(*[largeCopy]byte)
	defer largeBuffers.Put(large)
	_, err = copyWith(to, from, large[:], false)
	return err
}

// copyWith copies until the end or, if asked to, until a read fills buf.
func copyWith(to io.Writer, from io.Reader, buf []byte, untilFull bool) (full bool, err error) {
	for {
		k, err := from.Read(buf)
		if k > 0 {
			if _, err := to.Write(buf[:k]); err != nil {
				return false, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, err
		case untilFull && k == len(buf):
			return true, nil
		}
	}
}

// halves closes one direction of a connection. One that cannot is left open
// until the other direction ends too.
type halves struct {
	net.Conn
	quick *quick // the same, or nil
}

func newHalves(c net.Conn) *halves { return &halves{c, newQuick(c)} }

func (h *halves) Read(b []byte) (int, error) {
	if h.quick != nil {
		return h.quick.Read(b)
	}
	return h.Conn.Read(b)
}

func (h *halves) Write(b []byte) (int, error) {
	if h.quick != nil {
		return h.quick.Write(b)
	}
	return h.Conn.Write(b)
}

func (h *halves) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// reset ends a connection so that its other side sees a failure, not an end.
func reset(conn net.Conn) {
	switch c := conn.(type) {
	case *guestConn:
		c.abort() // its flow closes it
		return
	case *net.TCPConn:
		_ = c.SetLinger(0) // fails on a connection that is gone already
	}
	conn.Close()
}
