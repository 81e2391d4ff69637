package egress

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// facts is a Request, looked at once for all rules.
type facts struct {
	Request
	forms []netip.Addr
	hits  []hit
	pins  []string // normal Names
	quic  bool     // udp to the port of HTTP/3

	// The name that counts. At most one holds: it is known (name), it will be seen
	// in the first bytes (open), or it never will (hidden says why). If none does,
	// it is one of the pins.
	name   string
	open   bool
	hidden Code
	claim  string // a name the client sent that could not be verified
	paths  []string
	ech    bool // an encrypted hello counts
}

const maxNames = 64 // that share an address

// look reads a request of a flow. A bad one is denied with the code and reason.
func look(p *Policy, h *Host, r Request) (*facts, Code, string) {
	f := &facts{Request: r}
	switch {
	case r.Protocol != TCP && r.Protocol != UDP && r.Protocol != ICMP:
		return nil, CodeBadRequest, "Protocol " + strconv.Quote(r.Protocol) + " is never let out; only tcp, udp and echo requests are"
	case !r.Addr.IsValid():
		return nil, CodeBadRequest, "The request has no address"
	case r.Port == 0 && r.Protocol != ICMP:
		return nil, CodeBadRequest, "Port 0 does not exist"
	case len(r.Names) > maxNames:
		return nil, CodeBadRequest, "Too many names share this address"
	}
	f.forms = h.forms(r.Addr)
	f.hits = h.hits(f.forms)
	f.quic = r.Protocol == UDP && r.Port == 443
	f.ech = p.doc.ECH != ECHOuter
	for _, n := range r.Names {
		name, err := NormalName(n)
		if err != nil {
			return nil, CodeBadName, err.Error()
		}
		f.pins = append(f.pins, name)
	}
	if code, why := f.findName(); code != "" {
		return nil, code, why
	}
	return f, "", ""
}

// findName sets the name that counts.
func (f *facts) findName() (Code, string) {
	switch {
	case f.Protocol != TCP:
		f.nameOfPins()
		return "", ""
	case f.HTTP != nil:
		return f.nameOfHTTP()
	case f.App == AppTLS:
		if f.TLS == nil {
			return CodeBadRequest, "The client hello could not be read"
		}
		return f.nameOfTLS()
	case f.App == AppOther:
		f.nameOfPins()
		return "", ""
	}
	if len(f.pins) == 0 {
		f.hidden = CodeBareAddress
	} else {
		f.open = true
	}
	return "", ""
}

// nameOfPins is for what shows no name itself.
func (f *facts) nameOfPins() {
	switch len(f.pins) {
	case 0:
		f.hidden = CodeBareAddress
	case 1:
		f.name = f.pins[0]
	}
}

func (f *facts) nameOfTLS() (Code, string) {
	if f.TLS.SNI == "" {
		f.hidden = CodeNoSNI
		if len(f.pins) == 0 {
			f.hidden = CodeBareAddress
		}
		return "", ""
	}
	sni, err := NormalName(f.TLS.SNI)
	if err != nil {
		return CodeBadName, "The server name of the client hello: " + err.Error()
	}
	f.claim = sni
	switch {
	case len(f.pins) == 0:
		f.hidden = CodeBareAddress
	case f.TLS.ECH && f.ech:
		f.hidden = CodeECH
	case slices.Contains(f.pins, sni):
		f.name = sni
	default:
		f.hidden = CodeSNIMismatch
	}
	return "", ""
}

// nameOfHTTP reads a request. Within TLS its host must be that of the hello:
// the certificate was for that one.
func (f *facts) nameOfHTTP() (Code, string) {
	q := f.HTTP
	if q.Method == "" || q.Path == "" && q.Method != "CONNECT" {
		return CodeBadRequest, "The HTTP request has no method or no path"
	}
	f.paths = readings(q.Path)
	host := hostOnly(q.Host)
	if a, ok := ParseAddr(host); ok {
		f.hidden = CodeHostMismatch
		if a == f.forms[0] || len(f.pins) == 0 {
			f.hidden = CodeBareAddress
		}
		return "", ""
	}
	name, err := NormalName(host)
	if err != nil {
		return CodeBadName, "The host of the HTTP request: " + err.Error()
	}
	f.claim = name
	switch {
	case len(f.pins) == 0: // before all else: whose address it is nobody can say
		f.hidden = CodeBareAddress
	case f.TLS != nil && f.TLS.SNI != "" && !sameName(f.TLS.SNI, name):
		f.hidden = CodeHostMismatch
	case !slices.Contains(f.pins, name):
		f.hidden = CodeHostMismatch
	default:
		f.name = name
	}
	return "", ""
}

func sameName(a, normal string) bool {
	n, err := NormalName(a)
	return err == nil && n == normal
}

// hostOnly cuts the port off a host.
func hostOnly(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.HasSuffix(s[:i], "]") || strings.Count(s, ":") == 1) {
		if p := s[i+1:]; strings.Trim(p, "0123456789") == "" {
			return s[:i]
		}
	}
	return s
}

// special returns a name of the flow if none of its names is public; empty
// otherwise. It does not ask which of them counts: the address is public, and
// what matters is that such names do not resolve unless a rule names them.
func (f *facts) special() string {
	if len(f.pins) == 0 || slices.ContainsFunc(f.pins, func(n string) bool { return specialName(n) == "" }) {
		return ""
	}
	return f.pins[0]
}
