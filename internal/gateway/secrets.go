package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// SecretList lists the secrets of a sandbox.
type SecretList struct {
	Secrets []api.SecretStatus `json:"secrets" nullable:"false"`
}

// SecretValue is what a secret is set to.
type SecretValue struct {
	Hosts []string `json:"hosts,omitempty"` // exact names or *.suffix; may be left out for a secret that has some
	Value string   `json:"value"`
}

func (s *Server) secretRoutes() {
	secret := func(id, method, path, summary string) op {
		return op{ID: id, Method: method, Path: "/v1/sandboxes/{id}/secrets" + path, Scope: apikey.Manage, Tag: tagNetwork, Summary: summary}
	}
	list := secret("list-secrets", http.MethodGet, "", "List the secrets of a sandbox, without their values")
	list.Scope = apikey.Read
	route(s, list, s.listSecrets)
	route(s, secret("set-secret", http.MethodPut, "/{name}", "Give a running sandbox a secret, or another value to one"), s.setSecret)
	route(s, secret("remove-secret", http.MethodDelete, "/{name}", "Have a sandbox forget a secret"), s.removeSecret)
}

func (s *Server) listSecrets(ctx context.Context, in *Ref) (*reply[SecretList], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	list, err := sb.Secrets(ctx)
	return &reply[SecretList]{SecretList{filled(list)}}, err
}

// SecretName names a secret of a sandbox.
type SecretName struct {
	Ref
	Name string `path:"name" maxLength:"128" doc:"name of the environment variable"`
}

type secretInput struct {
	SecretName
	Body SecretValue
}

func (s *Server) setSecret(ctx context.Context, in *secretInput) (*reply[api.SecretStatus], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	out, err := sb.SetSecret(ctx, api.Secret{Name: in.Name, Hosts: in.Body.Hosts, Value: in.Body.Value})
	return &reply[api.SecretStatus]{out}, err
}

func (s *Server) removeSecret(ctx context.Context, in *SecretName) (*done, error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return nil, sb.RemoveSecret(ctx, in.Name)
}
