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

// end is one side of a relayed flow.
type end interface {
	io.ReadWriter
	CloseWrite() error
}

// relay copies both ways until both have ended, each end being passed on by
// itself. An error on either side resets both. It closes host.
func relay(ctx context.Context, guest *guestConn, host net.Conn) error {
	var once sync.Once
	var first error
	fail := func(err error) {
		once.Do(func() {
			first = err
			resetHost(host)
			guest.abort()
		})
	}
	stop := context.AfterFunc(ctx, func() { fail(ctx.Err()) })
	up := make(chan struct{})
	go func() {
		defer close(up)
		copyHalf(hostEnd{host}, guest, fail)
	}()
	copyHalf(guest, hostEnd{host}, fail)
	<-up
	stop()
	once.Do(func() {}) // whatever fails now is late, and first may be read
	host.Close()
	return first
}

func copyHalf(to, from end, fail func(error)) {
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

// hostEnd makes any connection an end. One that cannot close a single direction
// is left open until the other ends too.
type hostEnd struct{ net.Conn }

func (h hostEnd) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// resetHost closes so that the other side sees a failure, not an end.
func resetHost(host net.Conn) {
	if c, ok := host.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // fails on a connection that is gone already
	}
	host.Close()
}
