package agent

import (
	"encoding/binary"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

// resetConnections ends the TCP connections that lead out of this guest: the
// other end talks to the guest that this one was copied from, or gave it up.
// Connections between processes of the guest are whole and stay.
func resetConnections() error {
	if !anyTCP() {
		return nil
	}
	own, err := openDiag()
	if err != nil {
		return err
	}
	links := append([]*diag{own}, otherNamespaces()...)
	defer func() {
		for _, l := range links {
			unix.Close(l.fd)
		}
	}()
	ends := map[endpoints]bool{}
	for _, l := range links {
		if err := l.list(); err != nil {
			return err
		}
		for _, s := range l.socks {
			ends[s.ends()] = true
		}
	}
	for _, l := range links {
		for _, s := range l.socks {
			if e := s.ends(); !e.loopback() && !ends[e.mirror()] {
				l.destroy(s)
			}
		}
	}
	return nil
}

// anyTCP reports whether there is a TCP socket in any network namespace. Mostly
// there is none, and one small file says so.
func anyTCP() bool {
	text, err := readSmall("/proc/net/sockstat")
	_, tcp, found := strings.Cut(text, "TCP: ")
	_, alloc, counted := strings.Cut(tcp, " alloc ")
	return err != nil || !found || !counted || !strings.HasPrefix(alloc, "0 ")
}

// endpoints are the two ends of a connection: address and port of each, IPv4
// addresses as IPv6 writes them.
type endpoints [2][18]byte

func (e endpoints) mirror() endpoints { return endpoints{e[1], e[0]} }

// loopback reports whether the other end is in 127.0.0.0/8 or is ::1.
func (e endpoints) loopback() bool {
	const v4 = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"
	const one = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	to := string(e[1][:16])
	return strings.HasPrefix(to, v4+"\x7f") || to == one
}

// sock is a socket as sock_diag(7) describes it.
type sock struct {
	family byte
	id     [sockIDLen]byte // ports, addresses, interface, cookie
}

// Layout of struct inet_diag_sockid and of what holds it.
const (
	sockIDLen = 48
	reqLen    = 8 + sockIDLen // struct inet_diag_req_v2
	reqID     = 8
	msgLen    = 72 // struct inet_diag_msg
	msgID     = 4
)

func (s sock) ends() (e endpoints) {
	for i := range e {
		addr := s.id[4+16*i:][:16]
		if s.family == unix.AF_INET {
			e[i][10], e[i][11] = 0xff, 0xff
			copy(e[i][12:16], addr[:4])
		} else {
			copy(e[i][:16], addr)
		}
		copy(e[i][16:], s.id[2*i:2*i+2])
	}
	return e
}

// diag is a netlink socket for sock_diag of one network namespace.
type diag struct {
	fd    int
	socks []sock
}

// Operations of sock_diag.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
)

// halfOpen are the states of a connection, as bits: all but closed, listening and
// waiting for late segments.
const halfOpen = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT | 1<<unix.BPF_TCP_SYN_RECV |
	1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT |
	1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING | 1<<unix.BPF_TCP_NEW_SYN_RECV

// answerTime bounds the wait for the kernel's answer, in seconds: it comes at once.
const answerTime = 5

func openDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "ask for sockets: %w", err)
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTime})
	return &diag{fd: fd}, nil
}

// list lists the connections of both families.
func (d *diag) list() error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := d.request(sockDiagByFamily, unix.NLM_F_DUMP, sock{family: family}); err != nil {
			return api.Errorf(api.Unavailable, "list sockets: %w", err)
		}
	}
	return nil
}

// destroy resets a connection. One that has ended meanwhile is as well.
func (d *diag) destroy(s sock) { d.request(sockDestroy, unix.NLM_F_ACK, s) }

// request sends a request and takes the answers to it, to their end.
func (d *diag) request(kind, flags uint16, s sock) error {
	var b [unix.NLMSG_HDRLEN + reqLen]byte
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], uint32(len(b)))
	ne.PutUint16(b[4:], kind)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	req := b[unix.NLMSG_HDRLEN:]
	req[0], req[1] = s.family, unix.IPPROTO_TCP
	ne.PutUint32(req[4:], halfOpen)
	copy(req[reqID:], s.id[:])
	if _, err := unix.Write(d.fd, b[:]); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Read(d.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if done, err := d.answers(buf[:n]); done || err != nil {
			return err
		}
	}
}

// maxSocks bounds the sockets of a namespace.
const maxSocks = 1 << 16

// answers takes the messages of one read; done says that they were the last.
func (d *diag) answers(b []byte) (done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(ne.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return true, unix.EBADMSG
		}
		body := b[unix.NLMSG_HDRLEN:n]
		switch ne.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, unix.EBADMSG
			}
			if e := int32(ne.Uint32(body)); e != 0 {
				return true, unix.Errno(-e)
			}
			return true, nil
		case sockDiagByFamily:
			if len(body) >= msgLen && len(d.socks) < maxSocks {
				s := sock{family: body[0]}
				copy(s.id[:], body[msgID:])
				d.socks = append(d.socks, s)
			}
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return false, nil
}

// otherNamespaces opens sockets in the network namespaces, other than the agent's,
// that processes of the guest are in, such as a container's.
func otherNamespaces() []*diag {
	names, _ := readNames("/proc")
	own, _ := os.Readlink("/proc/self/ns/net")
	seen := map[string]bool{own: true}
	var paths []string
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		path := "/proc/" + name + "/ns/net"
		if ns, err := os.Readlink(path); err == nil && !seen[ns] {
			seen[ns] = true
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	opened := make(chan []*diag)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nothing else runs
		// in the wrong namespace.
		runtime.LockOSThread()
		opened <- openIn(paths)
	}()
	return <-opened
}

// openIn opens a socket in each namespace. It leaves the thread in one of them.
func openIn(paths []string) []*diag {
	var all []*diag
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			continue
		}
		if d, err := openDiag(); err == nil {
			all = append(all, d)
		}
	}
	return all
}
