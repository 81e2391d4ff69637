package netstack

import (
	"net/netip"

	"github.com/miekg/dns"
)

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// behind returns the address that a guest's destination stands for: the gateway
// is where a guest reaches the host's loopback.
func (n *Network) behind(a netip.Addr) netip.Addr {
	switch a {
	case n.cfg.Gateway4:
		return loopback4
	case n.cfg.Gateway6:
		return loopback6
	}
	return a
}

// showGateway is the other direction, for answers. Records are the caller's own.
func (n *Network) showGateway(rrs []dns.RR) {
	for _, rr := range rrs {
		switch a, _ := addressOf(rr); a {
		case loopback4:
			rr.(*dns.A).A = n.cfg.Gateway4.AsSlice()
		case loopback6:
			rr.(*dns.AAAA).AAAA = n.cfg.Gateway6.AsSlice()
		}
	}
}
