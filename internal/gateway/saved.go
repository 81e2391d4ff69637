package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

const tagSaved = "Saved and continued"

// Children are the sandboxes that a fork made.
type Children struct {
	Sandboxes []api.Sandbox `json:"sandboxes" nullable:"false"`
}

// Rewind names the step to go back to.
type Rewind struct {
	Step int `json:"step"`
}

func (s *Server) savedRoutes() {
	below := func(id, method, path string, scope apikey.Scope, summary string) op {
		return op{ID: id, Method: method, Path: "/v1/sandboxes/{id}/" + path, Scope: scope, Tag: tagSaved, Summary: summary}
	}
	take := below("take-snapshot", http.MethodPost, "snapshots", apikey.Manage, "Save a sandbox under a name")
	take.Status = http.StatusCreated
	route(s, take, s.takeSnapshot)
	fork := below("fork-sandbox", http.MethodPost, "fork", apikey.Manage, "Make children of a sandbox: all come up or none")
	fork.Status, fork.Answers = http.StatusCreated, madeAnswers[Children](s)
	stream(s, fork, s.forkSandbox)
	check := below("checkpoint-sandbox", http.MethodPost, "checkpoints", apikey.Manage, "Record a sandbox as a step of its history")
	check.Status = http.StatusCreated
	route(s, check, s.checkpoint)
	route(s, below("get-history", http.MethodGet, "history", apikey.Read, "Read the steps of a sandbox"), s.history)
	route(s, below("rewind-sandbox", http.MethodPost, "rewind", apikey.Manage, "Make a sandbox what it was at a step"), s.rewind)
	s.diffRoutes()
	s.snapshotRoutes()
	s.templateRoutes()
	s.poolRoutes()
}

type takeInput struct {
	Ref
	Body *api.TakeSnapshot
}

func (s *Server) takeSnapshot(ctx context.Context, in *takeInput) (*reply[api.Snapshot], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	snap, err := sb.TakeSnapshot(ctx, or(in.Body, api.TakeSnapshot{}))
	return &reply[api.Snapshot]{snap}, err
}

// or is what a body says or, where there is none, what it means then.
func or[T any](body *T, none T) T {
	if body == nil {
		return none
	}
	return *body
}

type forkInput struct {
	Ref
	Lease string `header:"Smolvm-Lease" maxLength:"80" doc:"lease that ephemeral children depend on"`
	Body  *api.Fork
}

func (s *Server) forkSandbox(in *forkInput, w http.ResponseWriter, r *http.Request) error {
	o := or(in.Body, api.Fork{})
	l, err := s.leaseFor(r.Context(), in.Lease, o.Ephemeral)
	if err != nil {
		return err
	}
	return making(w, r, http.StatusCreated, func(tell func(string, int64, int64)) (any, MadeLine, error) {
		c := s.client()
		c.Progress = tell
		list, err := s.fork(r.Context(), c, in.ID, o, l)
		return Children{list}, MadeLine{Sandboxes: list}, err
	})
}

func (s *Server) fork(ctx context.Context, c *smolvm.Client, id string, o api.Fork, l *lease) ([]api.Sandbox, error) {
	sb, err := c.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	children, err := sb.Fork(ctx, o)
	if err != nil {
		return nil, err
	}
	return s.keep(ctx, l, children...)
}

type checkpointInput struct {
	Ref
	Body *api.Checkpoint
}

func (s *Server) checkpoint(ctx context.Context, in *checkpointInput) (*reply[api.Step], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	step, err := sb.Checkpoint(ctx, or(in.Body, api.Checkpoint{}))
	return &reply[api.Step]{step}, err
}

func (s *Server) history(ctx context.Context, in *Ref) (*reply[api.History], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	h, err := sb.History(ctx)
	return &reply[api.History]{h}, err
}

type rewindInput struct {
	Ref
	Body Rewind
}

func (s *Server) rewind(ctx context.Context, in *rewindInput) (*reply[api.Sandbox], error) {
	return s.alter(ctx, in.Ref, func(sb *smolvm.Sandbox) error { return sb.Rewind(ctx, in.Body.Step) })
}
