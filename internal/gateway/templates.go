package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// TemplateList lists templates, the one used last first.
type TemplateList struct {
	Templates []api.Template `json:"templates" nullable:"false"`
}

// PoolList lists pools.
type PoolList struct {
	Pools []api.Pool `json:"pools" nullable:"false"`
}

func (s *Server) templateRoutes() {
	route(s, op{
		ID: "list-templates", Method: http.MethodGet, Path: "/v1/templates", Scope: apikey.Read, Tag: tagSaved,
		Summary: "List templates, the one used last first",
	}, s.listTemplates)
	stream(s, op{
		ID: "build-template", Method: http.MethodPost, Path: "/v1/templates", Scope: apikey.Admin, Tag: tagSaved,
		Summary: "Make the template of an image and sizes, where it is not there yet", Status: http.StatusCreated,
		Answers: madeAnswers[api.Template](s), MaxBody: specBody, Errors: []int{404},
	}, s.buildTemplate)
	route(s, op{
		ID: "remove-template", Method: http.MethodDelete, Path: "/v1/templates/{key}", Scope: apikey.Admin, Tag: tagSaved,
		Summary: "Remove a template by its key or a unique beginning of it",
	}, s.removeTemplate)
}

func (s *Server) poolRoutes() {
	pool := func(id, method string, scope apikey.Scope, summary string) op {
		return op{ID: id, Method: method, Path: "/v1/pools", Scope: scope, Tag: tagSaved, Summary: summary}
	}
	route(s, pool("list-pools", http.MethodGet, apikey.Read, "List pools"), s.listPools)
	set := pool("set-pool", http.MethodPut, apikey.Admin, "Keep sandboxes of an image and sizes waiting")
	set.Errors = []int{404, 409}
	route(s, set, s.setPool)
	route(s, pool("drain-pools", http.MethodDelete, apikey.Admin, "End the waiting sandboxes of an image, or all"), s.drainPools)
}

func (s *Server) listTemplates(ctx context.Context, _ *struct{}) (*reply[TemplateList], error) {
	list, err := s.client().Templates(ctx)
	return &reply[TemplateList]{TemplateList{filled(list)}}, err
}

type templateInput struct{ Body api.Spec }

func (s *Server) buildTemplate(in *templateInput, w http.ResponseWriter, r *http.Request) error {
	return making(w, r, http.StatusCreated, func(tell func(string, int64, int64)) (any, MadeLine, error) {
		c := s.client()
		c.Progress = tell
		t, err := c.BuildTemplate(r.Context(), in.Body)
		return t, MadeLine{Template: &t}, err
	})
}

type templateKey struct {
	Key string `path:"key" maxLength:"80" doc:"key of the template, or a unique beginning of it"`
}

func (s *Server) removeTemplate(ctx context.Context, in *templateKey) (*done, error) {
	return nil, s.client().RemoveTemplate(ctx, in.Key)
}

func (s *Server) listPools(ctx context.Context, _ *struct{}) (*reply[PoolList], error) {
	list, err := s.client().Pools(ctx)
	return &reply[PoolList]{PoolList{filled(list)}}, err
}

type poolInput struct{ Body api.SetPool }

func (s *Server) setPool(ctx context.Context, in *poolInput) (*reply[api.Pool], error) {
	b := in.Body
	p, err := s.client().SetPool(ctx, smolvm.Pool{Image: b.Image, CPUs: b.CPUs, MemoryMiB: b.MemoryMiB, DiskMiB: b.DiskMiB, Size: b.Size})
	return &reply[api.Pool]{p}, err
}

type drainInput struct {
	Image string `query:"image" maxLength:"500" doc:"left out: all pools"`
}

func (s *Server) drainPools(ctx context.Context, in *drainInput) (*reply[PoolList], error) {
	list, err := s.client().DrainPools(ctx, in.Image)
	return &reply[PoolList]{PoolList{filled(list)}}, err
}
