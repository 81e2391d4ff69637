package boot

import (
	"os"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/mux"
	"golang.org/x/sys/unix"
)

// port is the virtio-serial port. Its driver reads nothing, as at the end of a
// file, while no host is connected; it says so once and then waits for a host.
type port struct {
	raw  syscall.RawConn
	f    *os.File
	gone bool // no host was there at the last read
}

func openPort(path string) (*port, error) {
	// Not blocking: a write need not wait until the host has taken it over, and a
	// read that waits takes no thread.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, api.Errorf(api.Internal, "open the port to the host: %w", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, api.Errorf(api.Internal, "open the port to the host: %w", err)
	}
	return &port{raw: raw, f: f}, nil
}

// Read reads what the host sent.
func (p *port) Read(b []byte) (n int, err error) {
	cerr := p.raw.Read(func(fd uintptr) bool {
		for {
			n, err = unix.Read(int(fd), b)
			if err != unix.EINTR {
				break
			}
		}
		if n == 0 && err == nil && !p.gone {
			p.gone, err = true, mux.ErrHostGone
			return true
		}
		// False waits for the next event of the port, such as a host that comes.
		return n > 0 || err != nil && err != unix.EAGAIN
	})
	if cerr != nil {
		return 0, cerr
	}
	if n > 0 {
		p.gone = false
		return n, nil
	}
	return 0, err
}

// Write writes to the host. While none is connected it waits for one: what is
// written then is dropped there.
func (p *port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		var n int
		var err error
		cerr := p.raw.Write(func(fd uintptr) bool {
			n, err = unix.Write(int(fd), b[done:])
			return err != unix.EAGAIN && !(n == 0 && err == nil)
		})
		if cerr != nil {
			return done, cerr
		}
		if err != nil && err != unix.EINTR {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}
