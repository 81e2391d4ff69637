package netstack

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quick reads and writes a socket of the host past the runtime's preparations for
// system calls that block: these do not, and to prepare after a time without work
// wakes a thread that watches, which costs more than the call.
type quick struct {
	raw syscall.RawConn

	read, write func(fd uintptr) bool
	in, out     transfer
	vector      []unix.Iovec
}

// transfer is one call's argument and result.
type transfer struct {
	b     []byte
	n     int
	errno syscall.Errno
}

// newQuick returns nil for a connection that is no socket of a stream.
func newQuick(conn net.Conn) *quick {
	var raw syscall.RawConn
	var err error
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	q := &quick{raw: raw}
	q.read = func(fd uintptr) bool { return q.in.call(unix.SYS_READ, fd) }
	q.write = func(fd uintptr) bool {
		for q.out.call(unix.SYS_WRITE, fd) {
			if q.out.errno != 0 || q.out.b == nil {
				return true
			}
		}
		return false
	}
	return q
}

// call reports whether it could be done without waiting.
func (t *transfer) call(trap, fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.b))), uintptr(len(t.b)))
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
			t.n += int(n)
			t.b = t.b[n:]
			if len(t.b) == 0 {
				t.b = nil
			}
		}
		t.errno = errno
		return true
	}
}

// try writes what the other end takes now, and returns how much.
func (q *quick) try(parts [][]byte) (n int) {
	q.vector = q.vector[:0]
	for _, p := range parts {
		if len(p) > 0 {
			v := unix.Iovec{Base: unsafe.SliceData(p)}
			v.SetLen(len(p))
			q.vector = append(q.vector, v)
		}
	}
	_ = q.raw.Write(func(fd uintptr) bool {
		k, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(unsafe.SliceData(q.vector))), uintptr(len(q.vector)))
		if errno == 0 {
			n = int(k)
		}
		return true // an error shows again where all is written
	})
	clear(q.vector)
	return n
}

// Read is as of a net.Conn, for one caller at a time.
func (q *quick) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	q.in = transfer{b: b}
	err := q.raw.Read(q.read)
	n, errno := q.in.n, q.in.errno
	q.in.b = nil
	switch {
	case err != nil:
		return n, err
	case errno != 0:
		return n, os.NewSyscallError("read", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write is as of a net.Conn, for one caller at a time.
func (q *quick) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	q.out = transfer{b: b}
	err := q.raw.Write(q.write)
	n, errno := q.out.n, q.out.errno
	q.out.b = nil
	if err == nil && errno != 0 {
		err = os.NewSyscallError("write", errno)
	}
	return n, err
}
