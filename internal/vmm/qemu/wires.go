package qemu

import (
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/undo"
)

// Descriptors as QEMU sees them: exec.Cmd.ExtraFiles begins at 3.
const (
	fdQMP = 3 + iota
	fdConsole
	fdChannel
	fdCount = iota
)

// Those that not every machine has.
const (
	fdState   = 3 + fdCount + iota // the device state that a restored machine begins with
	fdNetwork                      // the network card's wire
)

// channelSocket is the name of the guest channel's socket in a machine's directory.
const channelSocket = "channel.sock"

// wires are the sockets between this process and a QEMU.
type wires struct {
	qmp     net.Conn
	console net.Conn
	path    string            // of the guest channel's socket
	theirs  [fdCount]*os.File // QEMU's ends, in order of their descriptors
}

func newWires(dir string) (*wires, error) {
	w := &wires{path: filepath.Join(dir, channelSocket)}
	var u undo.Stack
	defer u.Run()
	u.Add(w.close)

	var err error
	if w.qmp, w.theirs[fdQMP-fdQMP], err = socketPair(); err != nil {
		return nil, err
	}
	if w.console, w.theirs[fdConsole-fdQMP], err = socketPair(); err != nil {
		return nil, err
	}
	l, err := sockpath.Listen(w.path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if w.theirs[fdChannel-fdQMP], err = l.File(); err != nil {
		return nil, err
	}
	u.Success()
	return w, nil
}

// closeTheirs closes our copies of QEMU's ends: while one is open here, its
// other end does not learn that QEMU has ended.
func (w *wires) closeTheirs() {
	for _, f := range w.theirs {
		f.Close() // of nil too
	}
}

// close closes everything and removes the socket. Twice does no harm.
func (w *wires) close() {
	w.closeTheirs()
	for _, c := range []net.Conn{w.qmp, w.console} {
		if c != nil {
			c.Close()
		}
	}
	os.Remove(w.path)
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "socketpair")
	theirs := os.NewFile(uintptr(fds[1]), "socketpair")
	defer ours.Close() // FileConn has its own copy
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}
