package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// maxGuestHeader bounds the head of a guest's answer, in bytes.
const maxGuestHeader = 256 << 10

// proxy passes a request on to a server in a sandbox, and its answer back. WebSockets
// and other upgrades pass too.
func (s *Server) proxy(w http.ResponseWriter, r *http.Request, t target) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	if t.prefix == "" {
		w.Header().Del("X-Content-Type-Options") // the guest's own page
	}
	p := httputil.ReverseProxy{
		Rewrite:        t.rewrite,
		ModifyResponse: func(res *http.Response) error { return t.modify(r, res) },
		Transport: lastOnly{&http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				sb, err := s.sandbox(ctx, Ref{ID: t.id})
				if err != nil {
					return nil, err
				}
				return sb.Dial(ctx, t.port)
			},
			// A connection that waits for the next request would keep the sandbox in use.
			DisableKeepAlives:      true,
			DisableCompression:     true, // the bytes are to pass as they are
			MaxResponseHeaderBytes: maxGuestHeader,
		}},
		FlushInterval: -1, // at once: it may be a stream
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, r *http.Request, err error) { s.fail(w, r, guestError(err)) },
	}
	p.ServeHTTP(w, r.WithContext(ctx))
}

// lastOnly is a transport whose user is not told of informational answers (RFC 9110,
// section 15.2). ReverseProxy would pass a guest's on with headers that modify never
// saw, and then drop those that we have set.
type lastOnly struct{ http.RoundTripper }

// RoundTrip sends a request.
func (l lastOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	return l.RoundTripper.RoundTrip(r.WithContext(untold{r.Context()}))
}

// untold is a context without its values, of which a trace is one.
type untold struct{ context.Context }

// Value returns nil.
func (untold) Value(any) any { return nil }

// rewrite makes the request that the guest sees of one to us: for its own address, and
// without what is between the client and us. ReverseProxy has removed what is of one
// connection only (RFC 9110, section 7.6.1).
func (t target) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme, out.URL.Host, out.Host = "http", t.local(), t.local()
	out.URL.RawQuery = withoutToken(in.URL.RawQuery)
	if t.prefix != "" {
		out.URL.Path = strings.TrimPrefix(in.URL.Path, t.prefix)
		out.URL.RawPath = strings.TrimPrefix(in.URL.RawPath, t.prefix)
	}
	pr.SetXForwarded()
	h := out.Header
	if t.prefix != "" {
		h.Set("X-Forwarded-Prefix", t.prefix)
	}
	for name := range h {
		if strings.HasPrefix(name, "Smolvm-") {
			h.Del(name)
		}
	}
	if token, ok := bearer(in); ok && strings.HasPrefix(token, "smolvm_") {
		h.Del("Authorization") // a key of ours, sent here by mistake
	}
	withoutCookie(h)
	for _, name := range []string{"Origin", "Referer"} {
		t.ours(h, name, in.Host)
	}
}

// local is the server's address as its own machine has it.
func (t target) local() string { return "localhost:" + strconv.Itoa(t.port) }

// withoutCookie removes our cookie from a request, and leaves the others as they are.
func withoutCookie(h http.Header) {
	var kept []string
	for _, line := range h.Values("Cookie") {
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			if name, _, _ := strings.Cut(part, "="); part != "" && strings.TrimSpace(name) != previewCookie {
				kept = append(kept, part)
			}
		}
	}
	h.Del("Cookie")
	if len(kept) > 0 {
		h.Set("Cookie", strings.Join(kept, "; "))
	}
}

// ours rewrites a header that says where a request comes from: pages of the preview are
// pages of the server itself. The token is in none.
func (t target) ours(h http.Header, name, host string) {
	u, err := url.Parse(h.Get(name))
	if err != nil {
		h.Del(name)
		return
	}
	if u.Host == "" {
		return
	}
	u.RawQuery = withoutToken(u.RawQuery)
	path := u.EscapedPath()
	if strings.EqualFold(u.Host, host) && (name == "Origin" || strings.HasPrefix(path, t.prefix)) {
		u.Scheme, u.Host = "http", t.local()
		u.Path, u.RawPath = strings.TrimPrefix(u.Path, t.prefix), strings.TrimPrefix(u.RawPath, t.prefix)
	}
	h.Set(name, u.String())
}

// ofTheOrigin are headers of an answer whose effect is not on it alone but on all pages
// of its origin, which by path is ours.
var ofTheOrigin = [...]string{
	"Alt-Svc", "Clear-Site-Data", "Nel", "Origin-Agent-Cluster", "Public-Key-Pins", "Report-To", "Reporting-Endpoints",
	"Service-Worker-Allowed", "Strict-Transport-Security",
}

// asForeign has a browser give a page the rights of no origin (CSP level 3, sandbox).
const asForeign = "sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups allow-scripts"

// modify makes our answer of the guest's.
func (t target) modify(in *http.Request, res *http.Response) error {
	h := res.Header
	h.Del(headerRequestID)
	if res.StatusCode == http.StatusSwitchingProtocols {
		exchangeOf(in.Context()).status = res.StatusCode
	}
	t.cookies(h)
	if location := h.Get("Location"); location != "" {
		h.Set("Location", t.location(location, in.Host))
	}
	if t.prefix != "" {
		for _, name := range ofTheOrigin {
			h.Del(name)
		}
		h.Del("X-Content-Type-Options") // it is set already
		h.Add("Content-Security-Policy", asForeign)
	}
	return nil
}

// cookies keeps the cookies of an answer to the preview itself: no other host of ours,
// none of our paths, and not our own cookie.
func (t target) cookies(h http.Header) {
	lines := h.Values("Set-Cookie")
	h.Del("Set-Cookie")
	for _, line := range lines {
		c, err := http.ParseSetCookie(line)
		if err != nil || c.Name == previewCookie {
			continue
		}
		c.Domain = ""
		if t.prefix != "" {
			c.Path = t.prefix + "/" + strings.TrimLeft(c.Path, "/")
		}
		h.Add("Set-Cookie", c.String())
	}
}

// location leads a redirect of the server to itself to where we show it.
func (t target) location(value, host string) string {
	u, err := url.Parse(value)
	if err != nil || u.Opaque != "" {
		return value
	}
	port := strconv.Itoa(t.port)
	itself := slices.Contains([]string{"localhost:" + port, "127.0.0.1:" + port, "[::1]:" + port, host}, strings.ToLower(u.Host))
	if t.port == 80 {
		itself = itself || u.Host == "localhost" || u.Host == "127.0.0.1"
	}
	if u.Host != "" && !itself || u.Host == "" && !strings.HasPrefix(u.Path, "/") {
		return value
	}
	u.Scheme, u.Host = "", ""
	return t.prefix + "/" + strings.TrimLeft(u.String(), "/")
}

// guestError gives an error of the way to a server, or of its answer, a class.
func guestError(err error) error {
	if known := (*api.Error)(nil); errors.As(err, &known) {
		return api.Errorf(known.Class, "preview: %w", err)
	}
	return api.Errorf(api.Unavailable, "preview: the server in the sandbox does not speak HTTP, or broke off: %w", err)
}
