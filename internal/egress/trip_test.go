package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestParseTrip(t *testing.T) {
	for text, want := range map[string]string{
		"https://pypi.org":                   "tcp pypi.org 443 tls GET /",
		"https://pypi.org:8443/simple/?a=b":  "tcp pypi.org 8443 tls GET /simple/?a=b",
		"HTTP://deb.debian.org/debian":       "tcp deb.debian.org 80 http GET /debian",
		"POST https://api.example.com/v1":    "tcp api.example.com 443 tls POST /v1",
		"pypi.org":                           "tcp pypi.org 443 tls GET /",
		"pypi.org/simple":                    "tcp pypi.org 443 tls GET /simple",
		"pypi.org:443":                       "tcp pypi.org 443 tls GET /",
		"deb.debian.org:80":                  "tcp deb.debian.org 80 http GET /",
		"github.com:22":                      "tcp github.com 22 other  ",
		"tcp://github.com:22":                "tcp github.com 22 other  ",
		"tcp://github.com:443":               "tcp github.com 443 tls GET /",
		"tls://imap.example.com:993":         "tcp imap.example.com 993 tls  ",
		"tls://imap.example.com":             "tcp imap.example.com 443 tls  ",
		"udp://time.example.com:123":         "udp time.example.com 123   ",
		"icmp://1.1.1.1":                     "icmp 1.1.1.1 0   ",
		"icmp://[2606:4700::1111]":           "icmp 2606:4700::1111 0   ",
		"2606:4700::1111":                    "tcp 2606:4700::1111 443 tls GET /",
		"[2606:4700::1111]:80":               "tcp 2606:4700::1111 80 http GET /",
		"http://169.254.169.254/latest/meta": "tcp 169.254.169.254 80 http GET /latest/meta",
		"dns:example.com":                    "dns example.com 0   ",
		"dns:txt:example.com":                "dns example.com 0   ",
		" DELETE   http://a.example/x ":      "tcp a.example 80 http DELETE /x",
	} {
		p, err := ParseTrip(text)
		got := fmt.Sprintf("%s %s %d %s %s %s", p.Protocol, p.Host, p.Port, p.App, p.Method, p.Path)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "ftp://example.com", "tcp://example.com", "udp://example.com", "tcp://example.com:0", "tcp://example.com:65536",
		"tcp://:22", "https://", "get https://example.com", "GET dns:example.com", "GET udp://example.com:1", "dns:", "dns::x", "dns:A:",
		"https://user@example.com/", "udp://example.com:123/path", "icmp://example.com/x", "http://a b/", "https://[::1", "x://\x00",
	} {
		if p, err := ParseTrip(text); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: read as %+v, %v", text, p, err)
		}
	}
}

const tripPolicy = `
default: deny
rules:
  - {id: index, action: allow, domains: [pypi.org]}
  - {id: read, action: allow, domains: [api.example.com], methods: [GET], paths: [/v1]}
  - {id: write, action: ask, domains: [api.example.com], methods: [POST]}
  - {id: git, action: allow, domains: [git.corp.example.com], cidrs: [10.1.0.0/16], ports: [22]}
  - {id: ping, action: allow, cidrs: [1.1.1.1], protocols: [icmp]}
  - {id: new, action: ask, domains: [new.example.org]}
  - {id: clock, action: allow, domains: [time.example.net], protocols: [udp], ports: [123]}
`

func TestTrace(t *testing.T) {
	p, err := Parse([]byte(tripPolicy), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ trip, addr, want string }{
		{"https://pypi.org/simple/", "", "dns allow, tcp more, tls allow => allow index rule"},
		{"http://pypi.org/simple/", "", "dns allow, tcp more, http more, request allow => allow index rule"},
		{"pypi.org:22", "", "dns allow, tcp more, bytes allow => allow index rule"},
		{"https://example.com", "", "dns deny => deny - default"},
		{"dns:HTTPS:pypi.org", "", "dns deny => deny index dns_type"},
		{"dns:pypi.org", "", "dns allow => allow index rule"},
		{"https://pypi.org", "10.0.0.1", "dns allow, tcp deny => deny - name_to_denied"},
		{"https://api.example.com/v1/x", "", "dns allow, tcp more, tls more, request allow => allow read rule"},
		{"https://api.example.com/v2", "", "dns allow, tcp more, tls more, request deny => deny - path"},
		{"POST https://api.example.com/v2", "", "dns allow, tcp more, tls more, request ask => ask write rule"},
		{"tls://api.example.com", "", "dns allow, tcp more, tls more, bytes deny => deny - not_http"},
		{"git.corp.example.com:22", "10.1.2.3", "dns allow, tcp more, bytes allow => allow git rule"},
		{"git.corp.example.com:22", "", "dns allow, tcp deny => deny - address"},
		{"https://new.example.org", "", "dns ask, tcp ask => ask new rule"},
		{"udp://time.example.net:123", "", "dns allow, udp allow => allow clock rule"},
		{"udp://pypi.org:443", "", "dns allow, udp deny => deny - quic"},
		{"icmp://1.1.1.1", "", "icmp allow => allow ping rule"},
		{"https://93.184.216.34", "", "tcp more, tls deny => deny - bare_address"},
		{"http://169.254.169.254/latest/", "", "tcp deny => deny - denied_address"},
		{"http://0xa9fea9fe/latest/", "", "tcp deny => deny - denied_address"},
	} {
		trip, err := ParseTrip(c.trip)
		if err != nil {
			t.Fatal(err)
		}
		if c.addr != "" {
			trip.Addr = netip.MustParseAddr(c.addr)
		}
		steps := Trace(p, nil, trip, now)
		var said []string
		for _, s := range steps {
			said = append(said, fmt.Sprintf("%s %s", s.Name, s.Action))
		}
		got := fmt.Sprintf("%s => %s", strings.Join(said, ", "), short(Verdict(steps).Decision))
		if got != c.want {
			t.Errorf("%s %s:\n  got  %s\n  want %s\n  why  %s", c.trip, c.addr, got, c.want, Verdict(steps).Why)
		}
	}
}

// FuzzTrip wants an answer to whatever can be read.
func FuzzTrip(f *testing.F) {
	for _, s := range []string{"https://pypi.org/x?y", "POST https://api.example.com/v1", "udp://time.example.net:123", "icmp://1.1.1.1", "dns:TXT:a.example", "[::1]:80", "tls://x:993"} {
		f.Add(s)
	}
	p, err := Parse([]byte(tripPolicy), now)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		trip, err := ParseTrip(s)
		if err != nil {
			return
		}
		steps := Trace(p, corpusHost, trip, now)
		if last := steps[len(steps)-1]; last.Action == More || len(steps) > 5 || Verdict(steps).Action == "" {
			t.Errorf("%q: %+v", s, steps)
		}
	})
}
