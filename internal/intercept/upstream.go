package intercept

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"

	"github.com/smolvm/smolvm/api"
)

// transport makes the pool of connections to servers of one flow.
func (s *server) transport(http2 bool) *http.Transport {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(http2)
	return &http.Transport{
		Protocols:              &p,
		DialContext:            s.dial,
		TLSClientConfig:        s.verification(),
		TLSHandshakeTimeout:    s.i.cfg.Handshake,
		DisableCompression:     true, // the guest says what it takes
		MaxConnsPerHost:        s.i.cfg.Conns,
		MaxIdleConnsPerHost:    s.i.cfg.Conns,
		IdleConnTimeout:        upstreamIdle,
		ExpectContinueTimeout:  continueTime,
		MaxResponseHeaderBytes: int64(s.i.cfg.Head),
		WriteBufferSize:        ioBuffer,
		ReadBufferSize:         ioBuffer,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     s.size.stream,
			MaxReceiveBufferPerConnection: s.size.conn,
			StrictMaxConcurrentRequests:   true, // else a server could have us hold that often
		},
	}
}

// verification is how servers are verified: for the flow's name alone.
func (s *server) verification() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            s.i.cfg.Roots,
		ServerName:         s.f.Name,
		ClientSessionCache: s.i.sessions,
		Time:               s.i.cfg.Now,
	}
}

// roundTripper sends requests of the proxy to the server of their exchange.
type roundTripper struct{ s *server }

// RoundTrip is of http.RoundTripper. It changes the request, which the proxy made
// for it.
func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	switching := x.switching(r)
	if err := x.address(r); err != nil {
		return nil, err
	}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		WroteHeaders: func() { x.passed.Store(true) },
	}))
	if switching {
		return t.s.up1.RoundTrip(r)
	}
	return t.s.up.RoundTrip(r)
}

// switching reports whether a request asks to switch protocols, and takes the
// wish away where it may not be.
func (x *exchange) switching(r *http.Request) bool {
	to := upgradeOf(r.Header)
	if to != "" && to != "websocket" && !x.Answer.Opaque {
		r.Header.Del("Connection")
		r.Header.Del("Upgrade")
		return false
	}
	return to != ""
}

// address gives a request its server and its last changes.
func (x *exchange) address(r *http.Request) error {
	out := &Outgoing{
		Method: r.Method, Scheme: x.Request.Scheme, Name: x.name, Host: r.Host,
		Path: x.Request.Path, Header: r.Header, Body: r.Body, Length: r.ContentLength,
	}
	if err := x.rewrite(r.Context(), out); err != nil {
		return err
	}
	r.Header, r.Body, r.ContentLength = out.Header, out.Body, out.Length
	r.URL.Scheme = x.Request.Scheme
	r.URL.Host = net.JoinHostPort(x.name, strconv.Itoa(int(x.s.f.Port)))
	return setPath(r.URL, out.Path)
}

func (x *exchange) rewrite(ctx context.Context, out *Outgoing) error {
	if x.s.f.Rewrite == nil {
		return nil
	}
	err := x.s.f.Rewrite(ctx, out)
	x.Secrets = out.Secrets
	if err != nil {
		return api.Errorf(api.Denied, "prepare the request: %w", err)
	}
	return nil
}
