package fake

import (
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// line is a connection of the channel: the host's end, and the guest that serves
// the other. It is a pair of sockets, which keep what the guest has not read yet
// as a VMM does.
type line struct {
	net.Conn
	m     *Machine
	guest net.Conn
	once  sync.Once
	err   error
	ended chan struct{} // closed when the guest has returned
}

func newLine(m *Machine) (*line, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	host, err := fdConn(fds[0])
	if err != nil {
		unix.Close(fds[1])
		return nil, err
	}
	guest, err := fdConn(fds[1])
	if err != nil {
		host.Close()
		return nil, err
	}
	return &line{Conn: host, m: m, guest: guest, ended: make(chan struct{})}, nil
}

func fdConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "channel")
	defer f.Close() // FileConn has its own copy
	return net.FileConn(f)
}

// serve runs the guest, after that of the connection before.
func (l *line) serve(before *line) {
	defer close(l.ended)
	defer l.guest.Close()
	if before != nil {
		<-before.ended
	}
	if l.m.wait() {
		l.m.guest(gated{l.guest, l.m})
	}
}

// cut ends the guest's end.
func (l *line) cut() { l.guest.Close() }

// Close closes the host's end. The channel may then be dialled again.
func (l *line) Close() error {
	l.once.Do(func() {
		l.err = l.Conn.Close()
		l.m.release()
	})
	return l.err
}
