package agent

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"golang.org/x/sys/unix"
)

// cardName is the name that the kernel gives to the first Ethernet card.
const cardName = "eth0"

// network is the network card.
type network struct {
	mu sync.Mutex
	// now is how it is: the last guest.Network that was made true, as it is packed.
	// Empty: as the kernel found it, down.
	now string
}

// network serves OpNetwork.
func (a *Agent) network(n guest.Network) error { return a.net.become(a, n) }

// become brings the card into a state. To find that it is in it already takes no
// system call: a copy of a template that wants what the template had pays nothing.
func (net *network) become(a *Agent, n guest.Network) error {
	if n.State == guest.NetworkAsIs || !a.o.Network {
		return nil
	}
	net.mu.Lock()
	defer net.mu.Unlock()
	want := string(wire.Marshal(&n))
	if net.now == want {
		return nil
	}
	b, err := cardBatch(n)
	if err != nil {
		return err
	}
	if err := b.send(); err != nil {
		return err
	}
	net.now = want
	if len(n.Gateways) == 0 {
		return nil
	}
	return a.nameServer(n.Gateways[0])
}

// nameServer makes a server the only one. A link in the file's place leads to what
// services write that do not run here; anything else there is overwritten.
func (a *Agent) nameServer(addr string) error {
	const path = "/etc/resolv.conf"
	var st unix.Stat_t
	if unix.Lstat(a.root+path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		unix.Unlink(a.root + path)
	}
	// A name may wait for a person's answer, for a minute unless told otherwise, and
	// resolvers give up after ten seconds. 30 is the most that the C library takes. The
	// server is on this wire, so an answer is never slow for another reason.
	return a.rewrite(path, always("nameserver "+addr+"\noptions timeout:30 attempts:2\n"))
}

// cardBatch returns the requests that make the card what n says.
func cardBatch(n guest.Network) (*batch, error) {
	index, err := cardIndex()
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "find network card %s: %w", cardName, err)
	}
	b := &batch{card: uint32(index)}
	if n.State != guest.NetworkUp {
		b.link(0, 0)
		return b, nil
	}
	b.quiet()
	b.link(unix.IFF_UP, n.MTU)
	for _, text := range n.Addrs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "address %q of the network card: %w", text, err)
		}
		b.address(p)
	}
	for _, text := range n.Gateways {
		gw, err := netip.ParseAddr(text)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "gateway %q: %w", text, err)
		}
		b.neighbour(gw, n.GatewayMAC)
		b.route(gw)
	}
	return b, nil
}

func cardIndex() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(cardName)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// batch is requests to rtnetlink(7) that go out together.
type batch struct {
	card  uint32 // index of the interface
	b     []byte
	names []string // of the requests, for errors
	start int      // of the one that is being made
}

// begin begins a request, which replaces what is there but for links: those are changed.
func (b *batch) begin(name string, kind uint16) {
	b.start = len(b.b)
	flags := uint16(unix.NLM_F_REQUEST | unix.NLM_F_ACK)
	if kind != unix.RTM_NEWLINK {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	ne := binary.NativeEndian
	b.b = append(b.b, 0, 0, 0, 0) // its length, at end
	b.b = ne.AppendUint16(b.b, kind)
	b.b = ne.AppendUint16(b.b, flags)
	b.b = ne.AppendUint32(b.b, uint32(len(b.names))) // sequence number
	b.b = append(b.b, 0, 0, 0, 0)
	b.names = append(b.names, name)
}

func (b *batch) end() { b.setLength(b.start, 4) }

// setLength writes the length of what began at start as a number of some bytes.
func (b *batch) setLength(start, bytes int) {
	n := len(b.b) - start
	if bytes == 4 {
		binary.NativeEndian.PutUint32(b.b[start:], uint32(n))
		return
	}
	binary.NativeEndian.PutUint16(b.b[start:], uint16(n))
}

// attr adds an attribute, padded to four bytes.
func (b *batch) attr(kind uint16, value []byte) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(unix.SizeofRtAttr+len(value)))
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = append(b.b, value...)
	b.b = append(b.b, make([]byte, -len(value)&3)...)
}

// nest adds an attribute that holds others.
func (b *batch) nest(kind uint16, inner func()) {
	start := len(b.b)
	b.attr(kind, nil)
	inner()
	b.setLength(start, 2)
}

func (b *batch) uint32Attr(kind uint16, v uint32) {
	b.attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}

// linkHeader is struct ifinfomsg, for the card.
func (b *batch) linkHeader(flags uint32, change uint32) {
	b.b = append(b.b, unix.AF_UNSPEC, 0, 0, 0)
	for _, v := range []uint32{b.card, flags, change} {
		b.b = binary.NativeEndian.AppendUint32(b.b, v)
	}
}

func (b *batch) link(flags uint32, mtu int) {
	b.begin("bring the network card up or down", unix.RTM_NEWLINK)
	b.linkHeader(flags, unix.IFF_UP)
	if mtu > 0 {
		b.uint32Attr(unix.IFLA_MTU, uint32(mtu))
	}
	b.end()
}

// inet6AddrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const inet6AddrGenModeNone = 1

// quiet keeps the kernel from giving the card an IPv6 address of its own making,
// and so from asking for routers and looking for others who have that address.
func (b *batch) quiet() {
	b.begin("turn IPv6 autoconfiguration off", unix.RTM_NEWLINK)
	b.linkHeader(0, 0)
	b.nest(unix.IFLA_AF_SPEC, func() {
		b.nest(unix.AF_INET6, func() { b.attr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{inet6AddrGenModeNone}) })
	})
	b.end()
}

// address gives the card an address. Nobody else can have it: the kernel need not look.
func (b *batch) address(p netip.Prefix) {
	a := p.Addr()
	b.begin("add address "+p.String(), unix.RTM_NEWADDR)
	b.b = append(b.b, family(a), byte(p.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE)
	b.b = binary.NativeEndian.AppendUint32(b.b, b.card)
	b.attr(unix.IFA_LOCAL, a.AsSlice())
	b.attr(unix.IFA_ADDRESS, a.AsSlice())
	b.end()
}

// neighbour says where a gateway is, which so need not be asked for.
func (b *batch) neighbour(a netip.Addr, mac []byte) {
	if len(mac) == 0 {
		return
	}
	b.begin("add neighbour "+a.String(), unix.RTM_NEWNEIGH)
	b.b = append(b.b, family(a), 0, 0, 0)
	b.b = binary.NativeEndian.AppendUint32(b.b, b.card)
	b.b = binary.NativeEndian.AppendUint16(b.b, unix.NUD_PERMANENT)
	b.b = append(b.b, 0, 0) // flags, type
	b.attr(unix.NDA_DST, a.AsSlice())
	b.attr(unix.NDA_LLADDR, mac)
	b.end()
}

// route makes a gateway the default route of its family.
func (b *batch) route(gw netip.Addr) {
	b.begin("add route by "+gw.String(), unix.RTM_NEWROUTE)
	b.b = append(b.b, family(gw), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0)
	b.attr(unix.RTA_GATEWAY, gw.AsSlice())
	b.uint32Attr(unix.RTA_OIF, b.card)
	b.end()
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// send sends the requests and takes the answers to them. All are tried; the error
// names those that were refused.
func (b *batch) send() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return api.Errorf(api.Unavailable, "set the network card up: %w", err)
	}
	defer unix.Close(fd)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTime})
	// The answers then do not repeat the requests.
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if _, err := unix.Write(fd, b.b); err != nil {
		return api.Errorf(api.Unavailable, "set the network card up: %w", err)
	}
	var refused []string
	buf := make([]byte, 4<<10)
	for left := len(b.names); left > 0; {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return api.Errorf(api.Unavailable, "set the network card up: %w", err)
		}
		left -= b.answers(buf[:n], &refused)
	}
	if len(refused) > 0 {
		return api.Errorf(api.Unavailable, "%s", strings.Join(refused, "; "))
	}
	return nil
}

// answers takes the answers of one read and returns how many there were.
func (b *batch) answers(p []byte, refused *[]string) int {
	ne, count := binary.NativeEndian, 0
	for len(p) >= unix.NLMSG_HDRLEN+4 {
		n := int(ne.Uint32(p))
		if n < unix.NLMSG_HDRLEN+4 || n > len(p) {
			break
		}
		if ne.Uint16(p[4:]) == unix.NLMSG_ERROR {
			count++
			code, seq := int32(ne.Uint32(p[unix.NLMSG_HDRLEN:])), int(ne.Uint32(p[8:]))
			if code != 0 && seq < len(b.names) {
				*refused = append(*refused, b.names[seq]+": "+unix.Errno(-code).Error())
			}
		}
		p = p[min(len(p), (n+3)&^3):]
	}
	return count
}
