package intercept

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ServeHTTP serves one request of the guest.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.leave()
	x := s.begin(w, r)
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	defer x.finish()
	if !x.check(r) {
		return
	}
	select {
	case s.i.requests <- struct{}{}:
		defer func() { <-s.i.requests }()
	default: // what one request holds is little, what all flows of a guest could have is not
		x.deny(http.StatusServiceUnavailable, "crowded", "The sandbox has too many requests under way.")
		return
	}
	if !x.decide(r) {
		return
	}
	if r.Method == http.MethodConnect {
		x.tunnel(r)
		return
	}
	if r.ProtoMajor == 1 {
		// Otherwise the server takes the whole body before it answers. Never an error
		// for a request of HTTP/1.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	r.Body = &countedBody{r.Body, x}
	s.proxy.ServeHTTP(x, r)
}

// check answers what is no sane request for this flow.
func (x *exchange) check(r *http.Request) bool {
	f := &x.s.f
	path, ok := wirePath(r, x.Request.Scheme)
	x.Request.Path = path
	switch hosts := r.Header["Host"]; {
	case !ok:
		x.deny(http.StatusBadRequest, "bad_request", "The request's target is none that all servers read alike.")
	case len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host:
		x.deny(http.StatusBadRequest, "bad_request", "The request names two hosts.")
	case f.TLS && r.Method != http.MethodConnect && !sameHost(r.Host, f.Name, f.Port):
		x.deny(http.StatusMisdirectedRequest, "host_mismatch",
			"The connection is to "+f.Name+", the request on it for "+clip(r.Host, maxHostShown)+".")
	default:
		return true
	}
	return false
}

// decide asks, and answers what is denied.
func (x *exchange) decide(r *http.Request) bool {
	f := &x.s.f
	began := x.s.i.cfg.Now()
	if f.Decide != nil {
		x.Answer = f.Decide(r.Context(), &x.Request)
	}
	x.Waited = x.s.i.cfg.Now().Sub(began)
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody is left to answer
	}
	if x.Answer.Allow && r.Method == http.MethodConnect && !x.Answer.Opaque {
		x.Answer.Allow = false
		x.Answer.Code = "connect"
		x.Answer.Why = "CONNECT is not passed on where requests are looked at: what is in it could not be."
	}
	if !x.Answer.Allow {
		x.refuse(http.StatusForbidden)
		return false
	}
	x.name = f.Name
	if !f.TLS && x.Answer.Name != "" {
		x.name = x.Answer.Name
	}
	return true
}

// upgradeOf returns the protocol that a message switches to, lower case.
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") {
		return ""
	}
	return strings.ToLower(h.Get("Upgrade"))
}

// prepare makes the request to the server, for the proxy. It undoes what the
// proxy does to be a good gateway: we are none, but the guest's way to the server.
func (s *server) prepare(p *httputil.ProxyRequest) {
	for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := p.In.Header[k]; v != nil {
			p.Out.Header[k] = v
		}
	}
	// The map is filled at the body's end.
	if p.Out.Trailer = p.In.Trailer; len(p.In.Trailer) > 0 {
		p.Out.ContentLength = -1
	}
	if !p.In.ProtoAtLeast(2, 0) {
		p.Out.Header.Del("Http2-Settings")
	}
}

// errSwitched is a server that switches to what nobody asked for.
var errSwitched = errors.New("the server switched to another protocol, which was not asked for")

// response looks at the response's head, for the proxy.
func (s *server) response(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	x.Upstream, x.Type = res.Proto, res.Header.Get("Content-Type")
	x.FirstByte = s.i.cfg.Now().Sub(x.Began)
	if res.StatusCode == http.StatusSwitchingProtocols && upgradeOf(res.Header) != upgradeOf(res.Request.Header) {
		res.Body.Close()
		return errSwitched
	}
	if len(res.Trailer) > 0 && x.r.ProtoMajor == 1 {
		res.Header.Del("Content-Length") // with one HTTP/1 has no trailers
	}
	return nil
}

// failed answers for a server that does not, for the proxy.
func (s *server) failed(_ http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	if r.Context().Err() != nil {
		x.Err = "the guest gave up"
		panic(http.ErrAbortHandler)
	}
	x.fail(err)
}
