package netstack

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/smolvm/smolvm/api"
)

// Bounds of one answer.
const (
	maxRecords = 64
	maxAliases = 8
)

// answers is what the upstream said, as far as it answers the question.
type answers struct {
	rcode  int
	rrs    []dns.RR // first the aliases from the asked name on, then the records
	soa    *dns.SOA // of a negative answer
	ttl    time.Duration
	failed error
}

// known reports whether questions of a type are answered at all.
func known(t uint16) bool {
	switch t {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeTXT, dns.TypeMX, dns.TypeSRV, dns.TypePTR:
		return true
	}
	return hidden(t)
}

// hidden reports whether a type is answered with nothing. Browsers ask for these
// beside each address; they hold addresses of their own and the keys that hide
// the name in TLS, so they would go round the rules.
func hidden(t uint16) bool { return t == dns.TypeHTTPS || t == dns.TypeSVCB }

// canonical returns a name in lower case, without the last dot.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// plain reports whether a name has nothing but what names of hosts and services
// have. Others, such as a dot inside a label, read differently to whoever compares
// names than to the name servers they would be sent to.
func plain(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return name != ""
}

// sanitize takes from a message what answers q: aliases from its name on, and
// records of its type at their end. Everything else a server adds is its own idea.
func sanitize(q Question, m *dns.Msg) answers {
	switch {
	case m == nil || !m.Response || m.Truncated,
		m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return answers{ttl: failureTTL, failed: api.Errorf(api.Unavailable, "ask for %s %s: upstream answered %s", q.Name, q.Type, rcodeOf(m))}
	}
	a := answers{rcode: m.Rcode, ttl: maxTTL}
	owner, want := q.Name, dns.StringToType[q.Type]
	for range maxAliases {
		found := false
		for _, rr := range m.Answer {
			if canonical(rr.Header().Name) == owner && rr.Header().Rrtype == want && usable(rr) && len(a.rrs) < maxRecords {
				a.add(rr)
				found = true
			}
		}
		alias := aliasOf(m.Answer, owner)
		if found || alias == nil {
			break
		}
		a.add(alias)
		owner = canonical(alias.Target)
	}
	if !a.has(want) {
		a.negative(m, owner)
	}
	return a
}

func rcodeOf(m *dns.Msg) string {
	if m == nil {
		return "nothing"
	}
	if m.Truncated {
		return "half"
	}
	if s, ok := dns.RcodeToString[m.Rcode]; ok {
		return s
	}
	return strconv.Itoa(m.Rcode)
}

// usable reports whether a record is of the class and shape its type says.
func usable(rr dns.RR) bool {
	if rr.Header().Class != dns.ClassINET {
		return false
	}
	switch rr := rr.(type) {
	case *dns.A:
		return rr.A.To4() != nil
	case *dns.AAAA:
		return len(rr.AAAA) == 16
	}
	return true
}

func aliasOf(rrs []dns.RR, owner string) *dns.CNAME {
	for _, rr := range rrs {
		if c, ok := rr.(*dns.CNAME); ok && canonical(c.Hdr.Name) == owner && c.Hdr.Class == dns.ClassINET {
			return c
		}
	}
	return nil
}

func (a *answers) add(rr dns.RR) {
	a.rrs = append(a.rrs, rr)
	a.ttl = min(a.ttl, time.Duration(rr.Header().Ttl)*time.Second)
}

func (a *answers) has(want uint16) bool {
	for _, rr := range a.rrs {
		if rr.Header().Rrtype == want {
			return true
		}
	}
	return false
}

// negative gives an answer without records its lifetime: what the zone says.
func (a *answers) negative(m *dns.Msg, owner string) {
	a.ttl = min(a.ttl, failureTTL)
	for _, rr := range m.Ns {
		soa, ok := rr.(*dns.SOA)
		if ok && dns.IsSubDomain(soa.Hdr.Name, dns.Fqdn(owner)) {
			a.soa = soa
			a.ttl = min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegativeTTL)
			return
		}
	}
}

// aged returns a with what is left of its life.
func (a answers) aged(left time.Duration) answers {
	a.ttl = left
	return a
}

// records returns what goes to the guest: copies that live as long as the whole
// answer, the first of them spelled as it was asked for.
func (a answers) records(asked string) (answer, authority []dns.RR) {
	seconds := uint32((a.ttl + time.Second - 1) / time.Second)
	for _, rr := range a.rrs {
		c := dns.Copy(rr)
		c.Header().Ttl = seconds
		if strings.EqualFold(c.Header().Name, asked) {
			c.Header().Name = asked
		}
		answer = append(answer, c)
	}
	if a.soa != nil {
		c := dns.Copy(a.soa)
		c.Header().Ttl = seconds
		authority = append(authority, c)
	}
	return answer, authority
}

// addressOf returns the address in a record, if it has one.
func addressOf(rr dns.RR) (netip.Addr, bool) {
	switch rr := rr.(type) {
	case *dns.A:
		a, ok := netip.AddrFromSlice(rr.A.To4())
		return a, ok
	case *dns.AAAA:
		return netip.AddrFromSlice(rr.AAAA)
	}
	return netip.Addr{}, false
}

// reverseName reads the name that stands for an address in questions for PTR.
func reverseName(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	const nibbles = 32
	if !ok || len(rest) != 2*nibbles-1 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := range nibbles {
		if i > 0 && i%4 == 0 {
			text.WriteByte(':')
		}
		text.WriteByte(rest[len(rest)-1-2*i])
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil
}
