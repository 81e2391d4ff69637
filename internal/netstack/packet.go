package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The packets that we send ourselves, past the stack: answers that belong to no
// endpoint of it.

const (
	icmpHeader = 8
	udpHeader  = 8
	hopLimit   = 64
	// quoted is how much of a refused packet an ICMP error repeats: its IP
	// header without options, and the first 8 bytes, by which its sender finds
	// whom to tell.
	quotedTransport = 8
)

// refusal is why something is unreachable.
type refusal uint8

const (
	refusedHost refusal = iota
	refusedPort
	refusedByPolicy
)

// icmpCodes has the code of each refusal for ICMP and ICMPv6.
var icmpCodes = [...]struct{ v4, v6 byte }{
	refusedHost:     {1, 3},
	refusedPort:     {3, 4},
	refusedByPolicy: {13, 1},
}

// origin is the start of a packet of the guest, kept to answer it with an error.
type origin struct {
	src, dst  netip.Addr
	proto     uint8
	transport [quotedTransport]byte
}

// sendUnreachable tells the guest that a packet of its went nowhere.
func (n *Network) sendUnreachable(o origin, why refusal) {
	quote := make([]byte, 0, ip6Header+quotedTransport)
	body := make([]byte, icmpHeader, icmpHeader+cap(quote))
	if o.dst.Is4() {
		quote = append(quote, ip4(o.src, o.dst, o.proto, quotedTransport)...)
		body[0], body[1] = icmpUnreachable, icmpCodes[why].v4
	} else {
		quote = append(quote, ip6(o.src, o.dst, o.proto, quotedTransport)...)
		body[0], body[1] = 1 /* unreachable */, icmpCodes[why].v6
	}
	quote = append(quote, o.transport[:]...)
	n.sendICMP(o.dst, o.src, append(body, quote...))
}

// sendICMP sends an ICMP or ICMPv6 message; body's checksum is set here.
func (n *Network) sendICMP(src, dst netip.Addr, body []byte) {
	body[2], body[3] = 0, 0
	proto, sum := uint8(protoICMP), uint16(0)
	if !src.Is4() {
		proto = protoICMPv6
		sum = header.PseudoHeaderChecksum(protoICMPv6, toAddress(src), toAddress(dst), uint16(len(body)))
	}
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, sum))
	n.sendIP(src, dst, proto, body)
}

// sendUDP sends one datagram, which must fit into a frame.
func (n *Network) sendUDP(src, dst netip.AddrPort, payload []byte) {
	b := make([]byte, udpHeader, udpHeader+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(cap(b)))
	b = append(b, payload...)
	sum := header.PseudoHeaderChecksum(protoUDP, toAddress(src.Addr()), toAddress(dst.Addr()), uint16(len(b)))
	sum = ^checksum.Checksum(b, sum)
	if sum == 0 {
		sum = 0xffff // 0 means that there is none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	n.sendIP(src.Addr(), dst.Addr(), protoUDP, b)
}

func (n *Network) sendIP(src, dst netip.Addr, proto uint8, body []byte) {
	if src.Is4() {
		n.card.send(typeIPv4, ip4(src, dst, proto, len(body)), body)
		return
	}
	n.card.send(typeIPv6, ip6(src, dst, proto, len(body)), body)
}

func ip4(src, dst netip.Addr, proto uint8, size int) []byte {
	b := header.IPv4(make([]byte, ip4Header))
	b.Encode(&header.IPv4Fields{
		TotalLength: uint16(ip4Header + size), TTL: hopLimit, Protocol: proto,
		Flags: header.IPv4FlagDontFragment, SrcAddr: toAddress(src), DstAddr: toAddress(dst),
	})
	b.SetChecksum(^b.CalculateChecksum())
	return b
}

func ip6(src, dst netip.Addr, proto uint8, size int) []byte {
	b := header.IPv6(make([]byte, ip6Header))
	b.Encode(&header.IPv6Fields{
		PayloadLength: uint16(size), TransportProtocol: tcpip.TransportProtocolNumber(proto),
		HopLimit: hopLimit, SrcAddr: toAddress(src), DstAddr: toAddress(dst),
	})
	return b
}

func toAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromAddress(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
