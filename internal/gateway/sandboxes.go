package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// reply is an answer with a JSON body.
type reply[T any] struct{ Body T }

// done is an answer without a body.
type done struct{}

// Ref names the sandbox that a route is about. Inputs embed it.
type Ref struct {
	ID string `path:"id" maxLength:"63" doc:"id, unique beginning of an id, or name of the sandbox"`
}

// sandbox finds the sandbox that a request is about.
func (s *Server) sandbox(ctx context.Context, r Ref) (*smolvm.Sandbox, error) {
	return s.client().Get(ctx, r.ID)
}

// client returns a client for one call, whose Progress may be set.
func (s *Server) client() *smolvm.Client {
	c := s.opts.Client
	return &c
}

func (s *Server) sandboxRoutes() {
	route(s, op{
		ID: "get-sandbox", Method: http.MethodGet, Path: "/v1/sandboxes/{id}", Scope: apikey.Read, Tag: "Sandboxes",
		Summary: "Describe a sandbox",
	}, s.getSandbox)
}

func (s *Server) getSandbox(ctx context.Context, in *Ref) (*reply[api.Sandbox], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	info, err := sb.Info(ctx)
	return &reply[api.Sandbox]{info}, err
}
