package smolvm_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The world outside of the sandbox that tries to escape: a network namespace in
// which every address there is belongs to its loopback device. Whatever a
// supervisor sends, to whatever address, passes that device, and a watcher sees it.

// makeWorld makes the namespace of this process such a world.
func makeWorld(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := linkUp("lo"); err != nil {
		t.Fatalf("bring up loopback: %v", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := ownAll(family, lo.Index); err != nil {
			t.Fatalf("route all addresses of family %d to loopback: %v", family, err)
		}
	}
}

func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// ownAll is "ip route add local default dev lo" of a family (rtnetlink(7)).
func ownAll(family byte, device int) error {
	n := binary.NativeEndian
	body := []byte{family, 0, 0, 0, unix.RT_TABLE_LOCAL, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0}
	body = n.AppendUint16(body, 8)
	body = n.AppendUint16(body, unix.RTA_OIF)
	body = n.AppendUint32(body, uint32(device))
	return netlinkAsk(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

// addAddress gives a device an address of its own.
func addAddress(device int, a netip.Addr) error {
	n := binary.NativeEndian
	body := []byte{unix.AF_INET, 32, 0, unix.RT_SCOPE_UNIVERSE}
	body = n.AppendUint32(body, uint32(device))
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		body = n.AppendUint16(body, 8)
		body = n.AppendUint16(body, kind)
		body = append(body, a.AsSlice()...)
	}
	return netlinkAsk(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

func netlinkAsk(kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n := binary.NativeEndian
	msg := n.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = n.AppendUint16(msg, kind)
	msg = n.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	msg = append(msg, make([]byte, 8)...) // sequence and port: there is one message
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	got, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	if got < unix.NLMSG_HDRLEN+4 {
		return fmt.Errorf("answer of %d bytes", got)
	}
	if code := int32(n.Uint32(reply[unix.NLMSG_HDRLEN:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// seen is a packet that left the sandbox's supervisor.
type seen struct {
	proto  string // "tcp": a connection is tried or carries data; "udp"; "icmp": an echo request; else a number
	dst    netip.AddrPort
	marked bool // it holds what probes write
}

func (s seen) String() string {
	mark := ""
	if s.marked {
		mark = " with the probe's bytes"
	}
	return s.proto + " to " + s.dst.String() + mark
}

const probeMark = "ESCAPED"

// watcher sees every packet that passes loopback.
type watcher struct {
	fd   int
	done chan struct{}

	mu  sync.Mutex
	all []seen
}

func watchLoopback(t *testing.T) *watcher {
	protocol := int(uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8) // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatalf("watch loopback: %v", err)
	}
	// More than all probes together send: a packet that is not seen would be a test
	// that cannot fail.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20); err != nil {
		t.Fatal(err)
	}
	w := &watcher{fd: fd, done: make(chan struct{})}
	go w.run()
	t.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RDWR)
		unix.Close(fd)
	})
	return w
}

func (w *watcher) run() {
	defer close(w.done)
	b := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if s, ok := lookAt(b[:n]); ok {
			w.mu.Lock()
			w.all = append(w.all, s)
			w.mu.Unlock()
		}
	}
}

// take returns what was seen since the last take.
func (w *watcher) take() []seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

// lookAt tells a packet that begins or carries something outwards from answers.
func lookAt(p []byte) (seen, bool) {
	s := seen{marked: strings.Contains(strings.ToUpper(string(p)), probeMark)}
	var proto byte
	var dst netip.Addr
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		proto, dst = p[9], netip.AddrFrom4([4]byte(p[16:20]))
		p = p[min(int(p[0]&15)*4, len(p)):]
	case len(p) >= 40 && p[0]>>4 == 6:
		proto, dst = p[6], netip.AddrFrom16([16]byte(p[24:40]))
		p = p[40:]
	default:
		return s, false
	}
	port := uint16(0)
	switch {
	case proto == unix.IPPROTO_TCP && len(p) >= 20:
		const syn, ack = 2, 16
		s.proto, port = "tcp", binary.BigEndian.Uint16(p[2:])
		if p[13]&(syn|ack) != syn && !s.marked {
			return s, false
		}
	case proto == unix.IPPROTO_UDP && len(p) >= 8:
		s.proto, port = "udp", binary.BigEndian.Uint16(p[2:])
	case proto == unix.IPPROTO_ICMP && len(p) >= 8, proto == unix.IPPROTO_ICMPV6 && len(p) >= 8:
		const echo4, echo6 = 8, 128
		if s.proto = "icmp"; p[0] != echo4 && p[0] != echo6 {
			return s, false
		}
	default:
		s.proto = fmt.Sprint("protocol ", proto)
	}
	s.dst = netip.AddrPortFrom(dst, port)
	return s, true
}

// answerAll accepts connections on ports of every address, so that a probe that
// gets out is answered.
func answerAll(t *testing.T, ports ...int) {
	for _, port := range ports {
		l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					b := make([]byte, 4096)
					for {
						if _, err := c.Read(b); err != nil {
							return
						}
						fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				}()
			}
		}()
	}
}
