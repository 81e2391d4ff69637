package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

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

// SandboxList lists sandboxes, oldest first.
type SandboxList struct {
	Sandboxes []api.Sandbox `json:"sandboxes" nullable:"false"`
}

const tagSandboxes = "Sandboxes"

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
		ID: "list-sandboxes", Method: http.MethodGet, Path: "/v1/sandboxes", Scope: apikey.Read, Tag: tagSandboxes,
		Summary: "List sandboxes, oldest first",
	}, s.listSandboxes)
	stream(s, op{
		ID: "create-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes", Scope: apikey.Manage, Tag: tagSandboxes,
		Summary: "Create a sandbox", Status: http.StatusCreated, Answers: madeAnswers[api.Sandbox](s), MaxBody: specBody,
		Details: "Answers when it runs. With an Idempotency-Key the same request sent again, within a day and to the same server, " +
			"gets the same answer (" + headerReplayed + ": true) instead of another sandbox. With Accept: application/x-ndjson " +
			"lines tell of progress.",
		Errors: []int{404, 409},
	}, s.createSandbox)
	route(s, op{
		ID: "get-sandbox", Method: http.MethodGet, Path: "/v1/sandboxes/{id}", Scope: apikey.Read, Tag: tagSandboxes,
		Summary: "Describe a sandbox",
	}, s.getSandbox)
	route(s, op{
		ID: "remove-sandbox", Method: http.MethodDelete, Path: "/v1/sandboxes/{id}", Scope: apikey.Manage, Tag: tagSandboxes,
		Summary: "End a sandbox at once and remove everything of it",
	}, s.removeSandbox)
	s.lifeRoutes()
	route(s, op{
		ID: "get-stats", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/stats", Scope: apikey.Read, Tag: tagSandboxes,
		Summary: "Measure what a sandbox uses",
	}, s.stats)
	stream(s, op{
		ID: "get-console", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/console", Scope: apikey.Read, Tag: tagSandboxes,
		Summary: "Read the console of a sandbox's kernel", Answers: map[string]*huma.Schema{typeText: {Type: huma.TypeString}},
	}, s.console)
}

// specBody is of a spec with as large an environment as there may be, escaped.
const specBody = 8 << 20

type listInput struct {
	State []string `query:"state,explode" enum:"creating,running,paused,hibernated,stopped,error" doc:"only sandboxes in any of these states"`
	Label []string `query:"label,explode" doc:"only sandboxes with all of these labels, KEY=VALUE"`
}

func (s *Server) listSandboxes(ctx context.Context, in *listInput) (*reply[SandboxList], error) {
	o := smolvm.ListOptions{Labels: map[string]string{}}
	for _, st := range in.State {
		o.States = append(o.States, api.State(st))
	}
	for _, l := range in.Label {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, api.Errorf(api.Invalid, "label %.80q is not KEY=VALUE", l)
		}
		o.Labels[k] = v
	}
	list, err := s.client().List(ctx, o)
	if list == nil {
		list = []api.Sandbox{}
	}
	return &reply[SandboxList]{SandboxList{list}}, err
}

type createInput struct {
	Lease string `header:"Smolvm-Lease" maxLength:"80" doc:"lease that an ephemeral sandbox depends on"`
	Key   string `header:"Idempotency-Key" maxLength:"255" doc:"any text; the same request with the same text makes one sandbox"`
	Body  api.Spec
}

func (s *Server) createSandbox(in *createInput, w http.ResponseWriter, r *http.Request) error {
	if len(in.Body.Mounts) > 0 { // who writes to folders of the host may become its user
		if err := allow(r.Context(), apikey.Admin); err != nil {
			return err
		}
	}
	l, err := s.leaseFor(r.Context(), in.Lease, in.Body.Ephemeral)
	if err != nil {
		return err
	}
	return making(w, r, http.StatusCreated, func(tell func(string, int64, int64)) (any, MadeLine, error) {
		c := s.client()
		c.Progress = tell
		made, err := s.createOnce(r.Context(), w, in, func() (api.Sandbox, error) {
			sb, err := c.Create(r.Context(), in.Body)
			if err != nil {
				return api.Sandbox{}, err
			}
			list, err := s.keep(r.Context(), l, sb)
			if err != nil {
				return api.Sandbox{}, err
			}
			return list[0], nil
		})
		return made, MadeLine{Sandbox: &made}, err
	})
}

// createOnce is create, or what an earlier request with the same Idempotency-Key made.
func (s *Server) createOnce(ctx context.Context, w http.ResponseWriter, in *createInput, create func() (api.Sandbox, error)) (api.Sandbox, error) {
	if in.Key == "" {
		return create()
	}
	made, replayed, err := s.replays.do(ctx, exchangeOf(ctx).caller.name+" "+in.Key, in, create)
	if replayed {
		w.Header().Set(headerReplayed, "true")
	}
	return made, err
}

func (s *Server) getSandbox(ctx context.Context, in *Ref) (*reply[api.Sandbox], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	info, err := sb.Info(ctx)
	return &reply[api.Sandbox]{info}, err
}

func (s *Server) removeSandbox(ctx context.Context, in *Ref) (*done, error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	if err := sb.Remove(ctx); err != nil {
		return nil, err
	}
	s.leases.forget(sb.ID())
	return nil, nil
}

func (s *Server) stats(ctx context.Context, in *Ref) (*reply[api.Stats], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	st, err := sb.Stats(ctx)
	return &reply[api.Stats]{st}, err
}

type consoleInput struct {
	Ref
	Tail   int  `query:"tail" minimum:"0" doc:"only the last lines; zero: all that is kept"`
	Follow bool `query:"follow" doc:"go on until the sandbox stops"`
}

func (s *Server) console(in *consoleInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	return writing(w, r, typeText+"; charset=utf-8", func(out io.Writer) error {
		err := sb.Console(r.Context(), out, smolvm.ConsoleOptions{Tail: in.Tail, Follow: in.Follow})
		if in.Follow && errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
}
