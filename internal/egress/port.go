package egress

import (
	"fmt"
	"strconv"
	"strings"
)

// portRange is a range of ports, both ends included.
type portRange struct{ first, last uint16 }

func (r portRange) contains(port uint16) bool { return port >= r.first && port <= r.last }

func (r portRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(int(r.first))
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

func parsePorts(s string) (portRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	a, err := parsePort(first)
	if err != nil {
		return portRange{}, fmt.Errorf("port %q: write a number from 1 to 65535, or a range such as 8000-8100", s)
	}
	if !isRange {
		return portRange{a, a}, nil
	}
	b, err := parsePort(last)
	if err != nil {
		return portRange{}, fmt.Errorf("port %q: write a number from 1 to 65535, or a range such as 8000-8100", s)
	}
	if b < a {
		return portRange{}, fmt.Errorf("ports %q: the range ends before it begins", s)
	}
	return portRange{a, b}, nil
}

func parsePort(s string) (uint16, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" || s[0] == '0' {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// inPorts reports whether a port is in any of some ranges; no ranges mean all.
func inPorts(list []portRange, port uint16) bool {
	for _, r := range list {
		if r.contains(port) {
			return true
		}
	}
	return len(list) == 0
}
