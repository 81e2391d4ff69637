package netstack

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// The stream: each frame has its length in front, as QEMU's stream netdev has it.
const (
	lengthSize = 4
	etherSize  = 14
	// maxStreamFrame is more than QEMU ever sends. A longer one means that the
	// stream is not what we think it is, and nothing after it can be trusted.
	maxStreamFrame = 128 << 10
)

var errFrameLength = errors.New("frame is longer than any")

// readFrame reads one frame into buf. A frame that does not fit is skipped:
// it returns its length and no frame.
func readFrame(r *bufio.Reader, buf []byte) (frame []byte, length int, err error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxStreamFrame {
		return nil, 0, fmt.Errorf("%w: %d bytes", errFrameLength, size)
	}
	length = int(size)
	if length > len(buf) {
		_, err := r.Discard(length)
		return nil, length, err
	}
	_, err = io.ReadFull(r, buf[:length])
	return buf[:length], length, err
}

// DropReason says why a frame went no further.
type DropReason string

// drop is a DropReason as a small number; 0 means that there is none.
type drop uint8

const (
	keep drop = iota
	dropOversized
	dropMalformed
	dropMAC
	dropSource
	dropDestination
	dropMulticast
	dropProtocol
	dropChatter
	dropLimit
	numDrops
)

var dropReasons = [numDrops]DropReason{
	keep:            "",
	dropOversized:   "oversized",
	dropMalformed:   "malformed",
	dropMAC:         "source mac",  // from a card that is not the guest's
	dropSource:      "source",      // from an address that is not the guest's
	dropDestination: "destination", // to an address that no packet on a wire may have
	dropMulticast:   "multicast",   // nobody else is on the link
	dropProtocol:    "protocol",    // neither TCP, UDP nor echo
	dropChatter:     "chatter",     // what every kernel says to a link, and nobody here needs
	dropLimit:       "limit",       // a flow or question beyond one of Limits
}

func (d drop) reason() DropReason { return dropReasons[d] }

// The parts of frames that are looked at.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd

	protoHopByHop = 0
	protoICMP     = 1
	protoIGMP     = 2
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMPv6   = 58

	icmpUnreachable, icmpEchoRequest, icmpExceeded, icmpParameter = 3, 8, 11, 12
	icmp6Errors                                                   = 4 // types 1 to 4
	icmp6EchoRequest, icmp6EchoReply                              = 128, 129
	icmp6RouterSolicit, icmp6NeighbourSolicit                     = 133, 135
)

// packet is what check found out about a frame.
type packet struct {
	drop      drop
	ethertype uint16
	src, dst  netip.Addr
	proto     uint8
	echo      bool   // an echo request to outside: not the stack's business
	payload   []byte // of IP, without padding; set for echo alone
}

// link knows who is on the wire, and with that which frames can be true.
type link struct {
	guestMAC, gatewayMAC               [6]byte
	guest4, guest6, gateway4, gateway6 netip.Addr
	subnet4, subnet6                   netip.Prefix
}

// check says whether a frame of the guest may go further. It looks at nothing
// but its argument, and never past it.
func (l *link) check(frame []byte) packet {
	if len(frame) < etherSize {
		return packet{drop: dropMalformed}
	}
	dst, src := frame[:6], frame[6:12]
	p := packet{ethertype: binary.BigEndian.Uint16(frame[12:])}
	body := frame[etherSize:]
	switch {
	case !slices.Equal(src, l.guestMAC[:]):
		p.drop = dropMAC
	case dst[0]&1 == 0 && !slices.Equal(dst, l.gatewayMAC[:]):
		p.drop = dropDestination
	case p.ethertype == typeIPv4:
		l.check4(&p, body)
	case p.ethertype == typeIPv6:
		l.check6(&p, body)
	case p.ethertype == typeARP:
		p.drop = l.checkARP(body)
	default:
		p.drop = dropProtocol
	}
	return p
}

const (
	ip4Header = 20
	ip6Header = 40
)

func (l *link) check4(p *packet, b []byte) {
	// Options have no use here and have carried attacks; nothing sends them.
	if len(b) < ip4Header || b[0] != 0x45 {
		p.drop = dropMalformed
		return
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	p.proto = b[9]
	place := binary.BigEndian.Uint16(b[6:])
	fragment := place&0x3fff != 0 // more to come, or an offset
	end := int(place&0x1fff)*8 + total
	switch {
	case total < ip4Header || total > len(b) || end > MaxMTU:
		p.drop = dropMalformed
	case p.src != l.guest4:
		p.drop = dropSource
	case p.dst.IsMulticast() && p.proto == protoIGMP:
		p.drop = dropChatter // which groups it is in: nobody routes groups here
	case p.dst.IsMulticast() || b[16] == 255:
		p.drop = dropMulticast
	case b[16] == 0 || b[16] == 127 || b[16] >= 240 || l.subnet4.Contains(p.dst) && p.dst != l.gateway4:
		p.drop = dropDestination
	case p.proto == protoTCP || p.proto == protoUDP:
	case p.proto != protoICMP || fragment:
		p.drop = dropProtocol
	default:
		l.checkICMP(p, b[ip4Header:total])
	}
}

func (l *link) checkICMP(p *packet, b []byte) {
	if len(b) < icmpHeader {
		p.drop = dropMalformed
		return
	}
	switch {
	case p.dst == l.gateway4:
	case b[0] == icmpEchoRequest:
		p.echo, p.payload = true, b
	case b[0] != icmpUnreachable && b[0] != icmpExceeded && b[0] != icmpParameter:
		p.drop = dropProtocol
	}
}

func (l *link) check6(p *packet, b []byte) {
	if len(b) < ip6Header || b[0]>>4 != 6 {
		p.drop = dropMalformed
		return
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	p.proto = b[6]
	if size > len(b)-ip6Header {
		p.drop = dropMalformed
		return
	}
	body := b[ip6Header : ip6Header+size]
	local := p.dst == l.gateway6 || p.dst.IsLinkLocalUnicast()
	switch {
	case p.src != l.guest6 && !l.onLink6(p.src, p.dst, local):
		p.drop = dropSource
	case p.dst.IsMulticast():
		l.checkMulticast6(p, body)
	case embedded4(p.dst) || l.subnet6.Contains(p.dst) && p.dst != l.gateway6:
		p.drop = dropDestination
	case p.proto == protoTCP || p.proto == protoUDP:
	case p.proto == protoFragment:
		// Of what is in fragments only the name in front is known; echo in
		// fragments would pass us and be answered by the stack.
		if len(body) < 8 || body[0] != protoTCP && body[0] != protoUDP {
			p.drop = dropProtocol
		}
	case p.proto == protoICMPv6:
		l.checkICMP6(p, body, local)
	default:
		p.drop = dropProtocol
	}
}

// onLink6 reports whether a source that is not the guest's own address is one
// that neighbour discovery uses.
func (l *link) onLink6(src, dst netip.Addr, local bool) bool {
	if src.IsUnspecified() {
		return dst.IsLinkLocalMulticast()
	}
	return src.IsLinkLocalUnicast() && (local || dst.IsLinkLocalMulticast())
}

// embedded4 reports whether an address is an IPv4 address in disguise, or none:
// dialled on the host it would mean another one than what was decided on.
func embedded4(a netip.Addr) bool {
	b := a.As16()
	return slices.Equal(b[:10], make([]byte, 10)) && (a.Is4In6() || b[10] == 0 && b[11] == 0)
}

func (l *link) checkMulticast6(p *packet, b []byte) {
	switch {
	case p.proto == protoHopByHop && len(b) > 0 && b[0] == protoICMPv6:
		p.drop = dropChatter // the IPv6 way to say which groups it is in
	case p.proto != protoICMPv6:
		p.drop = dropMulticast
	default:
		l.checkNeighbour(p, b)
	}
}

// checkNeighbour lets only questions about the gateway through: an answer of the
// stack about any other address, such as the guest's own, would be wrong.
func (l *link) checkNeighbour(p *packet, b []byte) {
	switch {
	case len(b) < icmpHeader:
		p.drop = dropMalformed
	case b[0] == icmp6RouterSolicit:
		p.drop = dropChatter
	case b[0] != icmp6NeighbourSolicit:
		p.drop = dropMulticast
	case len(b) < icmpHeader+16:
		p.drop = dropMalformed
	case netip.AddrFrom16([16]byte(b[icmpHeader:])) != l.gateway6:
		p.drop = dropChatter
	}
}

func (l *link) checkICMP6(p *packet, b []byte, local bool) {
	if len(b) < icmpHeader {
		p.drop = dropMalformed
		return
	}
	switch t := b[0]; {
	case local && t == icmp6NeighbourSolicit:
		l.checkNeighbour(p, b)
	case local || t >= 1 && t <= icmp6Errors:
	case t == icmp6EchoRequest:
		p.echo, p.payload = true, b
	default:
		p.drop = dropProtocol
	}
}

// checkARP lets questions for the gateway's card through, and answers.
func (l *link) checkARP(b []byte) drop {
	ethernet4 := []byte{0, 1, 8, 0, 6, 4, 0}
	if len(b) < 28 || !slices.Equal(b[:7], ethernet4) {
		return dropMalformed
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	switch {
	case !slices.Equal(b[8:14], l.guestMAC[:]):
		return dropMAC
	case sender != l.guest4 && !sender.IsUnspecified():
		return dropSource
	case target != l.gateway4:
		return dropChatter
	}
	return keep
}
