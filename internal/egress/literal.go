package egress

import (
	"net/netip"
	"strconv"
	"strings"
)

// ParseAddr reads an address in every spelling that some program accepts: RFC
// 4291 text with or without brackets and zone, and the IPv4 forms of inet_aton
// with one to four parts, each decimal, octal (0...) or hexadecimal (0x...).
// An IPv4-mapped address is returned as IPv4, a zone is dropped.
func ParseAddr(s string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(inner, "]"); !ok {
			return netip.Addr{}, false
		}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	return parseAton(strings.TrimSuffix(s, "."))
}

// parseAton reads what inet_aton reads: the last part fills all that is left.
func parseAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		n, ok := atonPart(p)
		limit := uint64(1) << 8
		if i == len(parts)-1 {
			limit = 1 << (8 * (4 - i))
		}
		if !ok || n >= limit {
			return netip.Addr{}, false
		}
		if i == len(parts)-1 {
			v = v<<(8*(4-i)) | n
		} else {
			v = v<<8 | n
		}
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

func atonPart(p string) (uint64, bool) {
	base := 10
	switch {
	case len(p) > 2 && (p[:2] == "0x" || p[:2] == "0X"):
		p, base = p[2:], 16
	case len(p) > 1 && p[0] == '0':
		p, base = p[1:], 8
	}
	if p == "" || p[0] == '+' || p[0] == '-' || strings.Contains(p, "_") {
		return 0, false
	}
	n, err := strconv.ParseUint(p, base, 33) // one bit more than an address, so that too much is seen
	return n, err == nil
}

// looksNumeric reports whether programs may take a name for an address: its
// last label is a number (WHATWG URL, "ends in a number").
func looksNumeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if _, ok := atonPart(last); ok {
		return true
	}
	return last != "" && strings.Trim(last, "0123456789") == "" || strings.ContainsAny(name, ":[]")
}
