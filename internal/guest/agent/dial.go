package agent

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/mux"
	"golang.org/x/sys/unix"
)

const (
	// connectTime bounds a connection within the guest: long enough for three more
	// tries of the kernel where a server's queue is full.
	connectTime = 10 * time.Second
	// lingerTime bounds how long a server that has said its last may take to read
	// what was sent to it.
	lingerTime = 30 * time.Second
)

// errNobody says that nothing listens.
var errNobody = unix.ECONNREFUSED

// dial serves OpDial.
func (a *Agent) dial(s stream, req []byte) error {
	var d guest.Dial
	if err := unmarshal(req, &d); err != nil {
		return err
	}
	if d.Port < 1 || d.Port > 0xffff {
		return api.Errorf(api.Invalid, "connect to port %d: there is no such port", d.Port)
	}
	switch d.Proto {
	case "tcp":
		return a.dialTCP(s, d.Port)
	case "udp":
		return a.dialUDP(s, d.Port)
	}
	return api.Errorf(api.Invalid, "connect over %.80q: only tcp and udp are known", d.Proto)
}

// dialTCP connects, and passes bytes on until both sides have ended.
func (a *Agent) dialTCP(s stream, port int) error {
	f, err := connectAny(unix.SOCK_STREAM, port, func(*os.File) error { return nil })
	if err != nil {
		return cannotConnect("tcp", port, err)
	}
	defer f.Close()
	if err := s.reply(&guest.Empty{}); err != nil {
		return err
	}
	s.Flush()
	over := make(chan error, 1)
	a.work.Go(func() {
		err := s.AwaitEnd()
		if !errors.Is(err, mux.ErrClosed) {
			reset(f) // a read or write under way ends by it
		}
		over <- err
	})
	written := make(chan struct{})
	a.work.Go(func() {
		defer close(written)
		feedServer(s, f)
	})
	if err := copyOut(s, f); err != nil {
		return cannotConnect("tcp", port, err)
	}
	s.CloseSend()
	if err := <-over; !errors.Is(err, mux.ErrClosed) {
		return nil
	}
	select {
	case <-written:
	case <-time.After(lingerTime):
		reset(f)
	}
	return nil
}

// feedServer writes what the host sends. What a server does not take any more is
// dropped: how it ended shows where it is read.
func feedServer(s stream, f *os.File) {
	refused := false
	for {
		m, err := s.recv()
		if err == io.EOF {
			control(f, func(fd int) { unix.Shutdown(fd, unix.SHUT_WR) })
			return
		}
		if err != nil {
			return
		}
		if !refused && m.Kind == guest.KindData {
			_, err := f.Write(m.Payload)
			refused = err != nil
		}
	}
}

// copyOut passes what the server sends to the host. Nil: to its end, or to the
// stream's.
func copyOut(s stream, f *os.File) error {
	buf := make([]byte, guest.MaxPayload)
	for {
		n, err := f.Read(buf)
		if n > 0 && s.Send(uint8(guest.KindData), buf[:n]) != nil {
			return nil
		}
		if err == io.EOF || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dialUDP passes datagrams on until the host ends the stream.
func (a *Agent) dialUDP(s stream, port int) error {
	if err := s.reply(&guest.Empty{}); err != nil {
		return err
	}
	s.Flush()
	first, err := s.recvWhole()
	if err != nil {
		return nil
	}
	f, err := connectAny(unix.SOCK_DGRAM, port, func(f *os.File) error {
		sendDatagram(f, first.Payload)
		// On these addresses the answer that nobody is there has come by now.
		return socketError(f)
	})
	if err != nil {
		return cannotConnect("udp", port, err)
	}
	defer f.Close()
	a.work.Go(func() {
		s.AwaitEnd()
		f.Close()
	})
	a.work.Go(func() {
		for {
			m, err := s.recvWhole()
			if err != nil {
				return
			}
			sendDatagram(f, m.Payload)
		}
	})
	buf := make([]byte, guest.MaxDatagram)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if errors.Is(err, errNobody) {
			continue // for now: this comes once for each datagram that was sent
		}
		if err != nil && err != io.EOF { // an empty datagram reads as the end of a file
			return cannotConnect("udp", port, err)
		}
		if s.queue(guest.KindData, buf[:n]) != nil {
			return nil
		}
		s.Flush()
	}
}

// sendDatagram sends a datagram, which may get lost.
func sendDatagram(f *os.File, p []byte) {
	if len(p) > 0 {
		f.Write(p)
		return
	}
	control(f, func(fd int) { unix.Send(fd, nil, 0) }) // Write writes nothing then
}

// connectAny connects to a port at the first of the guest's own addresses where
// somebody listens; greet may find that nobody does.
func connectAny(kind, port int, greet func(*os.File) error) (*os.File, error) {
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, list := range []func() []netip.Addr{func() []netip.Addr { return loopback }, ownAddresses} {
		for _, ip := range list() {
			f, err := connect(kind, netip.AddrPortFrom(ip, uint16(port)))
			if err == nil {
				if err = greet(f); err == nil {
					return f, nil
				}
				f.Close()
			}
			// The last two are a guest without IPv6.
			if !errors.Is(err, errNobody) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
				return nil, err
			}
		}
	}
	return nil, errNobody
}

// connect connects to one address.
func connect(kind int, to netip.AddrPort) (*os.File, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, sa)
	f := os.NewFile(uintptr(fd), "flow")
	if err == unix.EINPROGRESS {
		err = awaitConnected(f)
	}
	if err == nil && toItself(f) {
		err = errNobody
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// awaitConnected waits for a connection that is being made.
func awaitConnected(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	f.SetWriteDeadline(time.Now().Add(connectTime))
	defer f.SetWriteDeadline(time.Time{})
	var failed error
	err = rc.Write(func(fd uintptr) bool {
		if failed = socketErrno(int(fd)); failed != nil {
			return true
		}
		_, err := unix.Getpeername(int(fd)) // an error: not yet
		return err == nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return api.Errorf(api.Timeout, "its queue is full, and nobody took from it in %v", connectTime)
	}
	return errors.Join(failed, err)
}

// toItself reports whether TCP has connected a socket to itself: it may, where
// nothing listens and the kernel gives the socket the very port it connects to.
func toItself(f *os.File) (same bool) {
	control(f, func(fd int) {
		own, err1 := unix.Getsockname(fd)
		peer, err2 := unix.Getpeername(fd)
		if err1 != nil || err2 != nil {
			return
		}
		switch own := own.(type) {
		case *unix.SockaddrInet4:
			p, ok := peer.(*unix.SockaddrInet4)
			same = ok && p.Port == own.Port && p.Addr == own.Addr
		case *unix.SockaddrInet6:
			p, ok := peer.(*unix.SockaddrInet6)
			same = ok && p.Port == own.Port && p.Addr == own.Addr
		}
	})
	return same
}

// ownAddresses are the addresses of the guest beside loopback.
func ownAddresses() []netip.Addr {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC)
	if err != nil {
		return nil
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for i := range messages {
		if messages[i].Header.Type != syscall.RTM_NEWADDR {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&messages[i])
		if err != nil {
			continue
		}
		for _, attr := range attrs {
			ip, ok := netip.AddrFromSlice(attr.Value)
			if attr.Attr.Type == syscall.IFA_ADDRESS && ok && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
				all = append(all, ip)
			}
		}
	}
	return all
}

// control gives a file's descriptor to fn while nobody can close it.
func control(f *os.File, fn func(fd int)) {
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { fn(int(fd)) })
	}
}

// reset closes a connection so that its peer learns that it did not end well.
func reset(f *os.File) {
	control(f, func(fd int) {
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	f.Close()
}

// socketError takes the error that waits at a socket.
func socketError(f *os.File) (err error) {
	control(f, func(fd int) { err = socketErrno(fd) })
	return err
}

func socketErrno(fd int) error {
	if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e != 0 {
		return unix.Errno(e)
	}
	return nil
}

// cannotConnect says what became of a connection.
func cannotConnect(proto string, port int, err error) error {
	if errors.Is(err, errNobody) {
		return api.Errorf(api.Unavailable, "connect to %s port %d: nothing listens there", proto, port)
	}
	if class := api.ClassOf(err); class != api.Internal {
		return api.Errorf(class, "connect to %s port %d: %w", proto, port, err)
	}
	return api.Errorf(api.Unavailable, "connect to %s port %d: %w", proto, port, bare(err))
}
