package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

func (s *Server) envRoutes() {
	route(s, op{
		ID: "get-env", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/env", Scope: apikey.Run, Tag: tagSandboxes,
		Summary: "Read the environment that every new process of a sandbox sees",
	}, s.getEnv)
	route(s, op{
		ID: "change-env", Method: http.MethodPost, Path: "/v1/sandboxes/{id}/env", Scope: apikey.Run, Tag: tagSandboxes,
		Summary: "Change the environment of processes that are started from now on", MaxBody: specBody,
	}, s.changeEnv)
}

func (s *Server) getEnv(ctx context.Context, in *Ref) (*reply[map[string]string], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	env, err := sb.Env(ctx)
	return &reply[map[string]string]{env}, err
}

type envInput struct {
	Ref
	Body api.EnvChange
}

func (s *Server) changeEnv(ctx context.Context, in *envInput) (*reply[api.EnvChanged], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	out, err := sb.ChangeEnv(ctx, in.Body)
	return &reply[api.EnvChanged]{out}, err
}
