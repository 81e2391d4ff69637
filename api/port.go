package api

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxPorts bounds the ports of a sandbox.
const MaxPorts = 64

// DefaultHostIP is where ports of the host are bound: only programs of the host
// reach them.
const DefaultHostIP = "127.0.0.1"

// CodePortTaken is the code of the error of a port that another program has.
const CodePortTaken = "port_taken"

// The protocols of ports.
const (
	ProtoTCP = "tcp"
	ProtoUDP = "udp"
)

// ParsePort reads [IP:][HOST:]GUEST[/udp]. Without HOST it is the same as GUEST;
// 0 picks one that is free. An IPv6 address stands in brackets.
func ParsePort(text string) (Port, error) {
	bad := func(why string) (Port, error) {
		return Port{}, Errorf(Invalid, "port %.80q: %s", text, why).
			WithRecovery("Write [IP:][HOST:]GUEST[/udp], such as 8080, 0:80, 8080:80 or 0.0.0.0:5353:53/udp.")
	}
	rest, proto, found := strings.Cut(text, "/")
	if !found {
		proto = ProtoTCP
	} else if proto == "" {
		return bad("it names no protocol")
	}
	p := Port{Proto: proto}
	if i := strings.LastIndexByte(rest, ']'); strings.HasPrefix(rest, "[") && i > 1 {
		p.HostIP, rest = rest[1:i], rest[i+1:]
		if rest, found = strings.CutPrefix(rest, ":"); !found {
			return bad("it ends after the address")
		}
	}
	words := strings.Split(rest, ":")
	if p.HostIP == "" && len(words) == 3 {
		p.HostIP, words = words[0], words[1:]
	}
	if len(words) > 2 {
		return bad("it has too many parts")
	}
	var err error
	if p.GuestPort, err = number(words[len(words)-1]); err != nil {
		return bad("its guest port is no number")
	}
	p.HostPort = p.GuestPort
	if len(words) == 2 {
		if p.HostPort, err = number(words[0]); err != nil {
			return bad("its host port is no number")
		}
	}
	p = p.WithDefaults()
	return p, p.Check()
}

// number reads digits and nothing else.
func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), err
}

// WithDefaults fills in protocol and address.
func (p Port) WithDefaults() Port {
	if p.Proto == "" {
		p.Proto = ProtoTCP
	}
	if p.HostIP == "" {
		p.HostIP = DefaultHostIP
	}
	return p
}

// String is as ParsePort reads it.
func (p Port) String() string {
	p = p.WithDefaults()
	text := strconv.Itoa(p.HostPort) + ":" + strconv.Itoa(p.GuestPort)
	switch {
	case p.HostIP == DefaultHostIP:
	case strings.Contains(p.HostIP, ":"):
		text = "[" + p.HostIP + "]:" + text
	default:
		text = p.HostIP + ":" + text
	}
	if p.Proto != ProtoTCP {
		text += "/" + p.Proto
	}
	return text
}

// Check refuses what cannot be a port. It expects defaults filled in.
func (p Port) Check() error {
	if p.Proto != ProtoTCP && p.Proto != ProtoUDP {
		return Errorf(Invalid, "port %d: protocol %.80q is not known", p.GuestPort, p.Proto).WithRecovery("Use tcp or udp.")
	}
	if ip, err := netip.ParseAddr(p.HostIP); err != nil || ip.Is4In6() {
		return Errorf(Invalid, "port %d: %.80q is no address of the host", p.GuestPort, p.HostIP).
			WithRecovery("Use an IP address such as 127.0.0.1, or 0.0.0.0 for all of them.")
	}
	if p.HostPort < 0 || p.HostPort > 0xffff || p.GuestPort < 1 || p.GuestPort > 0xffff {
		return Errorf(Invalid, "port %d:%d: not within 1 to 65535", p.HostPort, p.GuestPort).WithRecovery("0:%d picks a port of the host.", 80)
	}
	return nil
}

// SamePlace reports whether two ports could not both be bound.
func (p Port) SamePlace(o Port) bool {
	p, o = p.WithDefaults(), o.WithDefaults()
	return p.HostPort != 0 && p.HostPort == o.HostPort && p.HostIP == o.HostIP && p.Proto == o.Proto
}

// Means reports whether p, of which fields may be left out, means o.
func (p Port) Means(o Port) bool {
	o = o.WithDefaults()
	return (p.Proto == "" || p.Proto == o.Proto) && (p.HostIP == "" || p.HostIP == o.HostIP) &&
		(p.HostPort == 0 || p.HostPort == o.HostPort) && (p.GuestPort == 0 || p.GuestPort == o.GuestPort)
}

// AddPort returns ports with another one, whose host port may be 0.
func AddPort(ports []Port, p Port) ([]Port, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if len(ports) >= MaxPorts {
		return nil, Errorf(Exhausted, "add port %s: a sandbox has at most %d", p, MaxPorts)
	}
	if slices.ContainsFunc(ports, p.SamePlace) {
		return nil, Errorf(Conflict, "add port %s: the sandbox has that port of the host already", p).WithCode(CodePortTaken).
			WithRecovery("Remove it first, or use another port of the host.")
	}
	return append(slices.Clip(ports), p), nil
}

// RemovePorts returns ports without those that p means, and those. Class NotFound
// where it means none.
func RemovePorts(ports []Port, p Port) (left, removed []Port, err error) {
	for _, o := range ports {
		if p.Means(o) {
			removed = append(removed, o)
		} else {
			left = append(left, o)
		}
	}
	if removed == nil {
		return nil, nil, Errorf(NotFound, "remove port %d: the sandbox has none such", max(p.HostPort, p.GuestPort)).
			WithRecovery("See what it has with: smolvm port ls SANDBOX")
	}
	return left, removed, nil
}

// checkPorts checks the ports of a spec.
func checkPorts(ports []Port) (err error) {
	var seen []Port
	for _, p := range ports {
		if seen, err = AddPort(seen, p.WithDefaults()); err != nil {
			return err
		}
	}
	return nil
}
