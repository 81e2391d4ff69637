package gateway

import (
	"context"
	"errors"
	"net/http"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// Rename gives a sandbox another name.
type Rename struct {
	Name string `json:"name"`
}

type stopInput struct {
	Ref
	Body *api.Stop
}

type renameInput struct {
	Ref
	Body Rename
}

type startInput struct {
	Ref
	Lease string `header:"Smolvm-Lease" maxLength:"80" doc:"lease that an ephemeral sandbox depends on from now on"`
}

// lifeRoutes are those that change what a sandbox does.
func (s *Server) lifeRoutes() {
	life := func(verb, summary string) op {
		return op{
			ID: verb + "-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes/{id}/" + verb, Scope: apikey.Manage,
			Tag: tagSandboxes, Summary: summary,
		}
	}
	start := life("start", "Boot or continue a sandbox that is stopped, hibernated or in error")
	start.Answers = madeAnswers[api.Sandbox](s)
	stream(s, start, s.startSandbox)
	route(s, life("stop", "End the processes of a sandbox and power it off, or hibernate it"), func(ctx context.Context, in *stopInput) (*reply[api.Sandbox], error) {
		o := api.Stop{}
		if in.Body != nil {
			o = *in.Body
		}
		return s.alter(ctx, in.Ref, func(sb *smolvm.Sandbox) error { return sb.Stop(ctx, o) })
	})
	route(s, life("pause", "Halt the virtual CPUs of a sandbox"), func(ctx context.Context, in *Ref) (*reply[api.Sandbox], error) {
		return s.alter(ctx, *in, func(sb *smolvm.Sandbox) error { return sb.Pause(ctx) })
	})
	route(s, life("resume", "Let a paused sandbox go on"), func(ctx context.Context, in *Ref) (*reply[api.Sandbox], error) {
		return s.alter(ctx, *in, func(sb *smolvm.Sandbox) error { return sb.Resume(ctx) })
	})
	route(s, life("rename", "Give a sandbox another name"), func(ctx context.Context, in *renameInput) (*reply[api.Sandbox], error) {
		return s.alter(ctx, in.Ref, func(sb *smolvm.Sandbox) error { return sb.Rename(ctx, in.Body.Name) })
	})
	wait := life("wait", "Wait until a sandbox has no VM any more")
	wait.Scope = apikey.Read
	route(s, wait, s.waitSandbox)
}

// alter does something to a sandbox and describes it then.
func (s *Server) alter(ctx context.Context, ref Ref, do func(*smolvm.Sandbox) error) (*reply[api.Sandbox], error) {
	sb, err := s.sandbox(ctx, ref)
	if err != nil {
		return nil, err
	}
	before, err := sb.Info(ctx)
	if err != nil {
		return nil, err
	}
	if err := do(sb); err != nil {
		return nil, err
	}
	info, err := sb.Info(ctx)
	if errors.Is(err, api.ErrNotFound) {
		before.State = api.StateStopped // an ephemeral one is removed when it stops
		return &reply[api.Sandbox]{before}, nil
	}
	return &reply[api.Sandbox]{info}, err
}

func (s *Server) startSandbox(in *startInput, w http.ResponseWriter, r *http.Request) error {
	c := s.client()
	return making(w, r, http.StatusOK, func(tell func(string, int64, int64)) (any, MadeLine, error) {
		c.Progress = tell
		info, err := s.start(r.Context(), c, in)
		return info, MadeLine{Sandbox: &info}, err
	})
}

func (s *Server) start(ctx context.Context, c *smolvm.Client, in *startInput) (info api.Sandbox, err error) {
	sb, err := c.Get(ctx, in.ID)
	if err != nil {
		return info, err
	}
	if info, err = sb.Info(ctx); err != nil {
		return info, err
	}
	if info.State == api.StateRunning && in.Lease == "" {
		return info, nil
	}
	l, err := s.leaseFor(ctx, in.Lease, info.Ephemeral)
	if err != nil {
		return info, err
	}
	if err := sb.Start(ctx); err != nil {
		return info, err
	}
	if err := s.hold(l, []*smolvm.Sandbox{sb}); err != nil {
		s.removeAll(ctx, []*smolvm.Sandbox{sb})
		return info, err
	}
	return sb.Info(ctx)
}

func (s *Server) waitSandbox(ctx context.Context, in *Ref) (*reply[api.Sandbox], error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	info, err := sb.Wait(ctx)
	return &reply[api.Sandbox]{info}, err
}
