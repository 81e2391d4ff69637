package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// caller is who sent a request.
type caller struct {
	name  string // "local", or the key's id
	scope apikey.Scope
	key   *apikey.Key // nil: this user, over the Unix socket
}

// local is who comes over the Unix socket.
const local = "local"

// admit is the middleware that lets those in who may call a route.
func (s *Server) admit(o op) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if o.Public {
			next(ctx)
			return
		}
		done, err := s.enter(r, o.Scope)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		defer done()
		next(ctx)
	}
}

// enter finds out who calls, and whether it may and not too often. What it returns is
// to be called when the request has been answered.
func (s *Server) enter(r *http.Request, need apikey.Scope) (done func(), err error) {
	x := exchangeOf(r.Context())
	if x.caller, err = s.authenticate(r); err != nil {
		return nil, err
	}
	if err := allow(r.Context(), need); err != nil {
		return nil, err
	}
	return s.limits.enter(x.caller.key)
}

// authenticate finds out who calls: by key, or over the Unix socket.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	if token, ok := bearer(r); ok {
		if s.opts.Keys == nil {
			return caller{}, unauthenticated(apikey.ErrUnknown)
		}
		k, err := s.opts.Keys.Verify(token)
		if errors.Is(err, apikey.ErrUnknown) {
			return caller{}, unauthenticated(err)
		}
		if err != nil {
			return caller{}, err
		}
		return caller{name: k.ID, scope: k.Scope, key: &k}, nil
	}
	switch peerOf(r.Context()) {
	case peerOurs:
		return caller{name: local, scope: apikey.Admin}, nil
	case peerOther:
		return caller{}, unauthenticated(errors.New("the Unix socket is for the user alone who runs the server"))
	}
	return caller{}, unauthenticated(errors.New("a key is needed"))
}

func bearer(r *http.Request) (string, bool) {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(kind, "bearer")
}

func unauthenticated(why error) error {
	return api.Errorf(api.Denied, "authenticate: %w", why).WithCode(codeUnauthenticated).
		WithRecovery("Send Authorization: Bearer KEY, with a key of: smolvm key create")
}

// allow refuses a request whose caller's scope does not hold need. Routes ask for
// their own; this is for those where it depends on the request.
func allow(ctx context.Context, need apikey.Scope) error {
	if c := exchangeOf(ctx).caller; !c.scope.Allows(need) {
		return api.Errorf(api.Denied, "this needs the scope %s, the key has %s", need, c.scope).
			WithCode(codeScope).WithRecovery("Make a key for it with: smolvm key create --scope %s", need)
	}
	return nil
}

// checkOrigin refuses what a web page in a browser may have sent: another site's page
// (by its Origin), or a page whose name was made to lead here (by the Host). Over the
// Unix socket no browser comes.
func (s *Server) checkOrigin(r *http.Request) error {
	if peerOf(r.Context()) != peerTCP {
		return nil
	}
	if !s.knownHost(r.Host) {
		return api.Errorf(api.Denied, "host %.100q is not a name of this server", r.Host).WithCode("host").
			WithRecovery("Use 127.0.0.1 or localhost, or serve with --host NAME.")
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
		return api.Errorf(api.Denied, "origin %.100q is another site", origin).WithCode("origin")
	}
	return nil
}

func (s *Server) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(s.opts.Hosts, host)
}
