package egress

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Trip is what a program wants to do, as a person says it: from the DNS question
// to the HTTP request.
type Trip struct {
	Protocol string     // TCP, UDP, ICMP or DNS
	Host     string     // a name, or an address in any spelling
	Addr     netip.Addr // where the name leads; zero: to StandIn
	Port     uint16
	Type     string // of a DNS question; empty: A
	App      App    // what is said over TCP
	Method   string // of HTTP, also within TLS; empty: GET
	Path     string // empty: /
}

// StandIn is where names lead that nobody has asked for: any public address.
var StandIn = netip.MustParseAddr("93.184.216.34")

// ParseTrip reads a trip:
//
//	https://HOST[:PORT][/PATH], http://...       a GET request
//	METHOD URL                                   another request
//	HOST                                         as https://HOST
//	HOST:PORT, tcp://HOST:PORT                   TLS on port 443, HTTP on port 80, otherwise neither
//	tls://HOST[:PORT]                            TLS
//	udp://HOST:PORT, icmp://HOST
//	dns:NAME, dns:TYPE:NAME                      a question
//
// IPv6 addresses stand in brackets before a port. Class Invalid for all else.
func ParseTrip(s string) (Trip, error) {
	t, err := parseTrip(strings.TrimSpace(s))
	if err != nil {
		return t, api.Errorf(api.Invalid, "request %.200q: %w", s, err).
			WithRecovery("Write a URL, METHOD URL, HOST:PORT, udp://HOST:PORT, icmp://HOST or dns:NAME.")
	}
	return t, nil
}

func parseTrip(s string) (Trip, error) {
	if word, rest, ok := strings.Cut(s, " "); ok {
		t, err := parseTrip(strings.TrimSpace(rest))
		if err == nil && (!IsMethod(word) || t.Method == "") {
			err = errors.New("a method in capitals stands before the URL of an HTTP request")
		}
		t.Method = word
		return t, err
	}
	if rest, ok := strings.CutPrefix(s, "dns:"); ok {
		qtype, name, ok := strings.Cut(rest, ":")
		if !ok {
			qtype, name = "A", rest
		}
		if name == "" || qtype == "" {
			return Trip{}, errors.New("a question has a name")
		}
		return Trip{Protocol: DNS, Host: name, Type: strings.ToUpper(qtype)}, nil
	}
	u, err := parseURL(s)
	if err != nil {
		return Trip{}, err
	}
	return tripTo(u)
}

// IsMethod reports whether a word looks like an HTTP method: the common ones are
// in capitals, and nothing else that stands here is.
func IsMethod(s string) bool { return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == "" }

// parseURL reads what has a scheme, or lets us guess one.
func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
			s = "[" + s + "]"
		}
		u, err := url.Parse("tcp://" + s)
		if err == nil && u.Port() != "" && u.Path == "" {
			return u, nil
		}
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("it is no URL")
	case u.Hostname() == "" || u.User != nil:
		return nil, errors.New("a host is wanted, without a user")
	}
	return u, nil
}

func tripTo(u *url.URL) (Trip, error) {
	t := Trip{Protocol: TCP, Host: u.Hostname()}
	port := u.Port()
	web := false
	switch u.Scheme { // which Parse has put in small letters
	case "https":
		port, t.App, web = cmp.Or(port, "443"), AppTLS, true
	case "http":
		port, t.App, web = cmp.Or(port, "80"), AppHTTP, true
	case "tls":
		port, t.App = cmp.Or(port, "443"), AppTLS
	case "tcp":
		t.App = map[string]App{"443": AppTLS, "80": AppHTTP}[port]
		web = t.App != ""
		t.App = cmp.Or(t.App, AppOther)
	case UDP, ICMP:
		t.Protocol = u.Scheme
	default:
		return t, fmt.Errorf("scheme %q is none of http, https, tls, tcp, udp and icmp", u.Scheme)
	}
	if web {
		t.Method, t.Path = "GET", cmp.Or(u.RequestURI(), "/")
	} else if strings.Trim(u.RequestURI(), "/") != "" {
		return t, errors.New("only HTTP requests have a path")
	}
	if t.Protocol == ICMP {
		return t, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return t, errors.New("a port from 1 to 65535 is wanted")
	}
	t.Port = uint16(n)
	return t, nil
}

// Step is one question that a trip leads to, and its answer.
type Step struct {
	Name string // "dns", "address", "tls", "http", "request", "bytes", "udp", "icmp"
	Decision
}

// Trace answers the questions of a trip in their order, as the network of a
// sandbox would, until one is denied or all is said. What the trip comes to is the
// strictest of them: see Verdict.
func Trace(p *Policy, h *Host, t Trip, at time.Time) []Step {
	addr, literal := ParseAddr(t.Host)
	if t.Protocol == DNS || !literal {
		d := Decide(p, h, Request{At: at, Protocol: DNS, Question: t.Host, Type: cmp.Or(t.Type, "A")})
		steps := []Step{{"dns", d}}
		if t.Protocol == DNS || d.Action == Deny {
			return steps
		}
		addr = t.Addr
		if !addr.IsValid() {
			addr = StandIn
		}
		return append(steps, t.flow(p, h, Request{At: at, Addr: addr, Names: []string{t.Host}})...)
	}
	return t.flow(p, h, Request{At: at, Addr: addr})
}

// flow asks about the flow of a trip, showing what is needed step by step.
func (t Trip) flow(p *Policy, h *Host, r Request) []Step {
	r.Protocol, r.Port = t.Protocol, t.Port
	steps := []Step{{t.Protocol, Decide(p, h, r)}}
	for steps[len(steps)-1].Action == More {
		name := t.show(&r, steps[len(steps)-1].Need)
		if name == "" {
			break
		}
		steps = append(steps, Step{name, Decide(p, h, r)})
	}
	return steps
}

// show adds to a request what is needed next, and says what that was; empty: the
// trip has nothing more to show.
func (t Trip) show(r *Request, need Need) string {
	switch {
	case need == NeedBytes && r.App == "":
		r.App = t.App
		if t.App == AppTLS {
			r.TLS = &TLS{}
			if len(r.Names) > 0 { // clients send no address as a server name
				r.TLS.SNI = r.Names[0]
			}
		}
		return map[App]string{AppTLS: "tls", AppHTTP: "http", AppOther: "bytes"}[t.App]
	case need == NeedHTTP && r.HTTP == nil && t.Method != "":
		r.HTTP = &HTTP{Method: t.Method, Host: t.Host, Path: cmp.Or(t.Path, "/")}
		return "request"
	case need == NeedHTTP && r.HTTP == nil: // TLS that holds something else
		r.App, r.TLS = AppOther, nil
		return "bytes"
	}
	return ""
}

// Verdict returns the step that decides a trip: the strictest, of equal ones the last.
func Verdict(steps []Step) Step {
	var v Step
	for _, s := range steps {
		if s.Action != More && (v.Name == "" || strictness(s.Action) >= strictness(v.Action)) {
			v = s
		}
	}
	return v
}
