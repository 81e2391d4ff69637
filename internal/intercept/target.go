package intercept

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// wirePath returns the path of a request as it came, with its query. An absolute
// target of HTTP/1 (RFC 9112 section 3.2.2) is stripped of its origin, which is the
// request's Host by then. Nothing is returned for CONNECT.
func wirePath(r *http.Request, scheme string) (string, bool) {
	if !httpguts.ValidHeaderFieldName(r.Method) { // a token too
		return "", false
	}
	if r.Method == http.MethodConnect {
		return "", r.Host != ""
	}
	p := r.RequestURI
	if s, rest, ok := strings.Cut(p, "://"); ok && strings.EqualFold(s, scheme) && r.ProtoMajor == 1 {
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			i = len(rest)
		}
		if p = rest[i:]; !strings.HasPrefix(p, "/") {
			p = "/" + p
		}
	}
	if p == "*" && r.Method == http.MethodOptions {
		return p, true
	}
	return p, plainPath(p)
}

// plainPath reports whether a path is of bytes that stand for themselves on the
// wire.
func plainPath(p string) bool {
	if !strings.HasPrefix(p, "/") {
		return false
	}
	for i := range len(p) {
		if p[i] <= ' ' || p[i] >= 0x7f || p[i] == '#' {
			return false
		}
	}
	return true
}

var errPath = errors.New("the request's path is none that can be sent as it is")

// setPath gives a URL exactly this path and query, which package url would
// otherwise write in its own way.
func setPath(u *url.URL, path string) error {
	if path != "*" && !plainPath(path) {
		return errPath
	}
	p, query, asked := strings.Cut(path, "?")
	u.Opaque, u.Fragment, u.RawFragment = "", "", ""
	u.RawQuery, u.ForceQuery = query, asked && query == ""
	plain, err := url.PathUnescape(p)
	u.Path, u.RawPath = plain, p
	if err != nil || u.EscapedPath() != p {
		u.Opaque = p
	}
	if u.RequestURI() != path {
		return errPath
	}
	return nil
}

// sameHost reports whether a Host header is for the name and port of a flow. The
// port may be left out.
func sameHost(host, name string, port uint16) bool {
	if h, p, err := net.SplitHostPort(host); err == nil {
		if p != strconv.Itoa(int(port)) {
			return false
		}
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return sameName(host, name)
}

func sameName(a, b string) bool { return strings.EqualFold(strings.TrimSuffix(a, "."), b) }
