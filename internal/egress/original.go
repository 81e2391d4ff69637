package egress

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// FromSettings translates settings of the Python original and says, a sentence a
// line, what came of them.
//
// An entry is "*", a name, *.suffix, an address, or a URL. A name is open on all
// TCP ports. A URL is open on the ports 80 and 443, or on its own port, and
// with a path only for that path and below. With methods, only HTTP requests
// with these methods get out. Unlike in the original, all of this is enforced.
func FromSettings(s api.InternetSettings) (*Policy, []string, error) {
	methods, err := settingsMethods(s.AllowedHTTPMethods)
	if err != nil {
		return nil, nil, err
	}
	d := Document{Version: 1, Default: Deny}
	var said []string
	domains := s.AllowedDomains
	if domains == nil {
		domains = []string{"*"}
	}
	for _, entry := range domains {
		if entry == "*" && methods == nil {
			return allowAll()
		}
		r, text, err := translate(strings.TrimSpace(entry), methods)
		if err != nil {
			return nil, nil, api.Errorf(api.Invalid, "internet_settings: allowed_domains entry %q: %w", entry, err)
		}
		d.Rules, said = append(d.Rules, r), append(said, text)
	}
	if len(domains) == 0 {
		said = append(said, "No domain is allowed, so nothing gets out.")
	}
	p, err := New(d)
	if err != nil {
		return nil, nil, api.Errorf(api.Invalid, "internet_settings: %w", err)
	}
	return p, said, nil
}

func allowAll() (*Policy, []string, error) {
	p, err := Mode(ModePolicy)
	return p, []string{"The whole public internet is open; private networks, this host and cloud metadata are not."}, err
}

// settingsMethods returns nil for all methods.
func settingsMethods(allowed []string) ([]string, error) {
	var list []string
	for _, m := range allowed {
		m = strings.ToUpper(strings.TrimSpace(m))
		if m == "*" {
			return nil, nil
		}
		list = append(list, m)
	}
	if allowed != nil && len(list) == 0 {
		return nil, api.Errorf(api.Invalid, "internet_settings: allowed_http_methods is empty: write the methods, or \"*\" for all")
	}
	return list, nil
}

func translate(entry string, methods []string) (Rule, string, error) {
	r := Rule{Action: Allow, Note: "internet_settings"}
	host, path := entry, ""
	switch {
	case strings.Contains(entry, "://"):
		u, err := url.Parse(entry)
		if err != nil || u.Host == "" {
			return r, "", fmt.Errorf("it is no URL with a host")
		}
		if r.Ports, err = portsOf(u); err != nil {
			return r, "", err
		}
		host, path = u.Hostname(), u.EscapedPath()
	case strings.Contains(entry, "/") && !isCIDR(entry):
		host, path, _ = strings.Cut(entry, "/")
		path, _, _ = strings.Cut("/"+path, "?")
	}
	if err := destination(&r, host); err != nil {
		return r, "", err
	}
	if r.Methods = methods; path != "" && path != "/" {
		r.Paths = []string{path}
	}
	return r, said(r), nil
}

// portsOf says on which ports a URL opens a host. The scheme does not choose
// between 80 and 443, because sites send clients from one to the other.
func portsOf(u *url.URL) ([]string, error) {
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ws" && u.Scheme != "wss":
		return nil, fmt.Errorf("scheme %q: write http, https, or the host alone", u.Scheme)
	case u.User != nil:
		return nil, fmt.Errorf("leave the user out of the URL")
	case u.Port() != "":
		return []string{u.Port()}, nil
	}
	return []string{"80", "443"}, nil
}

func destination(r *Rule, host string) error {
	name, port, ok := strings.Cut(host, ":")
	if ok && len(r.Ports) == 0 && strings.Count(host, ":") == 1 {
		host, r.Ports = name, []string{port}
	}
	if isCIDR(host) {
		r.CIDRs = []string{host}
		return nil
	}
	if a, ok := ParseAddr(host); ok {
		if strings.Trim(host, "[]") != a.String() {
			return fmt.Errorf("write the address as %s", a)
		}
		r.CIDRs = []string{a.String()}
		return nil
	}
	r.Domains = []string{host}
	return nil
}

func isCIDR(s string) bool {
	_, err := netip.ParsePrefix(s)
	return err == nil
}

func said(r Rule) string {
	var b strings.Builder
	switch {
	case len(r.CIDRs) > 0:
		fmt.Fprintf(&b, "The address %s is open", r.CIDRs[0])
	case r.Domains[0] == "*":
		b.WriteString("Every public name is open, but no bare address,")
	default:
		fmt.Fprintf(&b, "%s is open", r.Domains[0])
	}
	if len(r.Ports) > 0 {
		fmt.Fprintf(&b, " on port %s", strings.Join(r.Ports, " and "))
	} else if len(r.Domains) > 0 {
		b.WriteString(" on all TCP ports")
	}
	if len(r.Methods) > 0 {
		fmt.Fprintf(&b, " for HTTP requests with %s", strings.Join(r.Methods, ", "))
	}
	if len(r.Paths) > 0 {
		fmt.Fprintf(&b, " to %s and below", r.Paths[0])
	}
	if len(r.Methods) > 0 || len(r.Paths) > 0 {
		b.WriteString("; TLS to it is opened by smolvm to see the requests")
	}
	return b.String() + "."
}
