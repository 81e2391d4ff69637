package egress

import (
	"net/netip"
	"slices"
)

// Range is a set of addresses that only a rule which names it can open: a rule
// with a CIDR that lies within the range. A wider one, such as 0.0.0.0/0, means
// the public part of what it covers, and so does a rule without CIDRs.
//
// Where ranges overlap, the smallest counts as well as the wider ones: to reach
// 169.254.169.254 a rule must name that very address.
type Range struct {
	Prefix netip.Prefix
	Name   string // for people: "private", "cloud metadata", ...
	Source string // where it is laid down
}

func rng(prefix, name, source string) Range {
	return Range{netip.MustParsePrefix(prefix), name, source}
}

// The registries are IANA's "IPv4 Special-Purpose Address Space", "IPv6
// Special-Purpose Address Space", "IPv4 Multicast" and "IPv6 Multicast". What
// they call globally reachable is left out (for instance 64:ff9b::/96, which
// stands for the IPv4 address it holds), with the exceptions named below.
var ranges = []Range{
	rng("0.0.0.0/8", "this network", "RFC 791 section 3.2, RFC 1122 section 3.2.1.3; Linux connects 0.0.0.0 to loopback"),
	rng("10.0.0.0/8", "private", "RFC 1918"),
	rng("100.64.0.0/10", "carrier-grade NAT", "RFC 6598"),
	rng("127.0.0.0/8", "loopback", "RFC 1122 section 3.2.1.3"),
	rng("169.254.0.0/16", "link-local", "RFC 3927"),
	rng("172.16.0.0/12", "private", "RFC 1918"),
	rng("192.0.0.0/24", "protocol assignments", "RFC 6890 section 2.1"),
	rng("192.0.2.0/24", "documentation", "RFC 5737"),
	rng("192.88.99.0/24", "6to4 relay", "RFC 7526 (deprecated)"),
	rng("192.168.0.0/16", "private", "RFC 1918"),
	rng("198.18.0.0/15", "benchmarking", "RFC 2544"),
	rng("198.51.100.0/24", "documentation", "RFC 5737"),
	rng("203.0.113.0/24", "documentation", "RFC 5737"),
	rng("224.0.0.0/4", "multicast", "RFC 5771"),
	rng("240.0.0.0/4", "reserved", "RFC 1112 section 4"),
	rng("255.255.255.255/32", "broadcast", "RFC 919 section 7"),

	// All but 2000::/3: nothing else is given out for unicast (RFC 4291 section 2.4).
	rng("::/3", unassigned, "RFC 4291 section 2.4"),
	rng("4000::/2", unassigned, "RFC 4291 section 2.4"),
	rng("8000::/1", unassigned, "RFC 4291 section 2.4"),
	rng("::/128", "unspecified", "RFC 4291 section 2.5.2"),
	rng("::1/128", "loopback", "RFC 4291 section 2.5.3"),
	rng("::/96", "IPv4-compatible", "RFC 4291 section 2.5.5.1 (deprecated)"),
	rng("::ffff:0:0:0/96", "IPv4-translated", "RFC 2765 section 2.1 (obsolete)"),
	rng("64:ff9b:1::/48", "local NAT64", "RFC 8215"),
	rng("100::/64", "discard-only", "RFC 6666"),
	rng("100:0:0:1::/64", "dummy", "RFC 9780"),
	rng("2001::/23", "protocol assignments", "RFC 2928; holds Teredo (RFC 4380), benchmarking (RFC 5180), ORCHID (RFC 4843)"),
	rng("2001::/32", "Teredo", "RFC 4380"),
	rng("2001:db8::/32", "documentation", "RFC 3849"),
	rng("2002::/16", "6to4", "RFC 3056, RFC 7526 (deprecated)"),
	rng("3fff::/20", "documentation", "RFC 9637"),
	rng("5f00::/16", "segment routing", "RFC 9602"),
	rng("fc00::/7", "private", "RFC 4193"),
	rng("fe80::/10", "link-local", "RFC 4291 section 2.5.6"),
	rng("fec0::/10", "site-local", "RFC 3879 (deprecated)"),
	rng("ff00::/8", "multicast", "RFC 4291 section 2.7"),

	// Addresses at which clouds hand out credentials to whoever asks. Each is
	// named in its provider's documentation of instance metadata.
	rng("169.254.169.254/32", "cloud metadata", "AWS, Google Cloud, Azure, DigitalOcean, OpenStack, Oracle, Hetzner"),
	rng("169.254.170.2/32", "cloud metadata", "AWS ECS task credentials"),
	rng("169.254.170.23/32", "cloud metadata", "AWS EKS pod identity"),
	rng("169.254.42.42/32", "cloud metadata", "Scaleway"),
	rng("169.254.0.23/32", "cloud metadata", "Tencent Cloud"),
	rng("100.100.100.200/32", "cloud metadata", "Alibaba Cloud"),
	rng("192.0.0.192/32", "cloud metadata", "Oracle Cloud (classic)"),
	rng("168.63.129.16/32", "cloud metadata", "Azure WireServer; a public address, used as a platform service"),
	rng("fd00:ec2::254/128", "cloud metadata", "AWS"),
	rng("fd00:ec2::23/128", "cloud metadata", "AWS EKS pod identity"),
	rng("fd20:ce::254/128", "cloud metadata", "Google Cloud"),
	rng("fd00:42::42/128", "cloud metadata", "Scaleway"),
}

// wellKnownNAT64 stands for the IPv4 addresses it holds (RFC 6052).
var wellKnownNAT64 = netip.MustParsePrefix("64:ff9b::/96")

const unassigned = "unassigned"

// Ranges lists the ranges that are denied unless named, without those of a host.
func Ranges() []Range { return slices.Clone(ranges) }

// Host is what a decision must know of the machine that runs the sandbox. Its
// zero value knows nothing.
type Host struct {
	Addrs []netip.Addr   // its own addresses on all interfaces; denied unless named alone
	NAT64 []netip.Prefix // prefixes by which its network reaches IPv4 (RFC 7050), beyond 64:ff9b::/96
}

// hit is a range and the spelling of an address that lies in it.
type hit struct {
	form netip.Addr
	Range
}

// hits lists the ranges an address lies in, in any of its spellings.
func (h *Host) hits(forms []netip.Addr) []hit {
	var found []hit
	for _, a := range forms {
		for _, r := range ranges {
			if r.Prefix.Contains(a) && !(r.Name == unassigned && wellKnownNAT64.Contains(a)) {
				found = append(found, hit{a, r})
			}
		}
		if h == nil {
			continue
		}
		for _, own := range h.Addrs {
			if own.Unmap().WithZone("") == a {
				alone := netip.PrefixFrom(a, a.BitLen())
				found = append(found, hit{a, Range{alone, "this host", "an address of the machine that runs the sandbox"}})
			}
		}
	}
	return found
}

// worst returns the smallest range that an address was found in: it says most.
func worst(found []hit) Range {
	return slices.MaxFunc(found, func(a, b hit) int { return hostBits(b.Range) - hostBits(a.Range) }).Range
}

func hostBits(r Range) int { return r.Prefix.Addr().BitLen() - r.Prefix.Bits() }

// forms returns an address and the IPv4 addresses that packets sent to it may
// end at, by a translator or a tunnel on the way. The first is the address
// itself, an IPv4-mapped one as IPv4: a socket makes no difference.
func (h *Host) forms(a netip.Addr) []netip.Addr {
	a = a.Unmap().WithZone("")
	list := []netip.Addr{a}
	if !a.Is6() {
		return list
	}
	b := a.As16()
	add := func(v4 netip.Addr) {
		if !slices.Contains(list, v4) {
			list = append(list, v4)
		}
	}
	for _, p := range embedding {
		if !p.prefix.Contains(a) || a == netip.IPv6Unspecified() || a.IsLoopback() {
			continue
		}
		for _, at := range p.at {
			// Of the possible places in a local NAT64 prefix most hold zeros, not an address.
			if v4 := at(b); len(p.at) < 3 || v4.As4()[0] != 0 {
				add(v4)
			}
		}
	}
	if h != nil {
		for _, p := range h.NAT64 {
			if p.Contains(a) {
				add(rfc6052(b, p.Bits()))
			}
		}
	}
	// ISATAP (RFC 5214 section 6.1): any prefix may carry the interface identifier.
	if (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		add(last4(b))
	}
	return list
}

// embedding says where IPv6 prefixes carry IPv4 addresses.
var embedding = []struct {
	prefix netip.Prefix
	at     []func([16]byte) netip.Addr
}{
	{netip.MustParsePrefix("::/96"), []func([16]byte) netip.Addr{last4}},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), []func([16]byte) netip.Addr{last4}},
	{wellKnownNAT64, []func([16]byte) netip.Addr{last4}},
	// RFC 8215 leaves it to the operator where in the /48 translators have their prefixes.
	{netip.MustParsePrefix("64:ff9b:1::/48"), []func([16]byte) netip.Addr{
		func(b [16]byte) netip.Addr { return rfc6052(b, 48) },
		func(b [16]byte) netip.Addr { return rfc6052(b, 56) },
		func(b [16]byte) netip.Addr { return rfc6052(b, 64) },
		last4,
	}},
	{netip.MustParsePrefix("2002::/16"), []func([16]byte) netip.Addr{ // RFC 3056 section 2
		func(b [16]byte) netip.Addr { return netip.AddrFrom4([4]byte(b[2:6])) },
	}},
	{netip.MustParsePrefix("2001::/32"), []func([16]byte) netip.Addr{ // RFC 4380 section 4: server, then client inverted
		func(b [16]byte) netip.Addr { return netip.AddrFrom4([4]byte(b[4:8])) },
		func(b [16]byte) netip.Addr { return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}) },
	}},
}

func last4(b [16]byte) netip.Addr { return netip.AddrFrom4([4]byte(b[12:16])) }

// rfc6052 takes the IPv4 address out of an IPv6 one with a translation prefix of
// some length. Octet 8 is always zero and not part of it (RFC 6052 section 2.2).
func rfc6052(b [16]byte, bits int) netip.Addr {
	var v4 [4]byte
	at := bits / 8
	for i := range v4 {
		if at == 8 {
			at++
		}
		if at < 16 {
			v4[i] = b[at]
		}
		at++
	}
	return netip.AddrFrom4(v4)
}

// names reports whether a prefix of a rule names a range: it lies within.
func names(p netip.Prefix, r Range) bool {
	return p.Bits() >= r.Prefix.Bits() && r.Prefix.Contains(p.Addr())
}
