package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/mcpserver"
)

// mcpRoutes serves the Model Context Protocol, which describes itself and answers its
// own errors. A session's tools are those that its key's scope allows.
func (s *Server) mcpRoutes() {
	m := mcpserver.New(mcpserver.Options{Client: s.client(), Version: s.opts.Version, All: true, Log: s.log})
	// Sessions are ended, and their sandboxes removed, before Serve returns.
	s.under.Add(1)
	context.AfterFunc(s.closing, func() {
		defer s.under.Done()
		m.Close()
	})
	h := m.Handler(func(r *http.Request) mcpserver.Caller {
		c := exchangeOf(r.Context()).caller
		return mcpserver.Caller{ID: c.name, Scope: c.scope}
	})
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		stream(s, op{ID: "mcp " + method, Method: method, Path: "/mcp", Scope: apikey.Read, Hidden: true},
			func(_ *struct{}, w http.ResponseWriter, r *http.Request) error {
				h.ServeHTTP(w, r)
				return nil
			})
	}
}
