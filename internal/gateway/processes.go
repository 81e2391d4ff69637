package gateway

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// ProcessList lists background processes in the order of their start.
type ProcessList struct {
	Processes []api.Process `json:"processes" nullable:"false"`
}

// GuestProcessList lists all processes of a guest but kernel threads.
type GuestProcessList struct {
	Processes []api.GuestProcess `json:"processes" nullable:"false"`
}

// ProcessSignal is a signal for a process.
type ProcessSignal struct {
	Signal string `json:"signal" maxLength:"20"` // such as "SIGTERM"
}

// ProcessRef names a background process of a sandbox.
type ProcessRef struct {
	Ref
	Process string `path:"process" maxLength:"40" doc:"the process's id, such as p7"`
}

func (s *Server) processRoutes() {
	const path, one = "/v1/sandboxes/{id}/processes", "/v1/sandboxes/{id}/processes/{process}"
	route(s, op{
		ID: "list-processes", Method: http.MethodGet, Path: path, Scope: apikey.Read, Tag: tagExec,
		Summary: "List the background processes, running and ended",
	}, s.listProcesses)
	route(s, op{
		ID: "start-process", Method: http.MethodPost, Path: path, Scope: apikey.Run, Tag: tagExec, Status: http.StatusCreated, MaxBody: execBody,
		Summary: "Start a command that goes on by itself",
		Details: "Its last megabyte of output is kept. With keep_stdin it waits for input that is sent later; stdin, tty and checkpoint are not for it.",
	}, s.startProcess)
	stream(s, op{
		ID: "get-process-output", Method: http.MethodGet, Path: one + "/output", Scope: apikey.Run, Tag: tagExec,
		Summary: "Read the output of a background process, and follow it",
		Details: "Lines of ExecEvent, or server-sent events where they are accepted. Without follow the last event of a process that runs yet is output.",
		Answers: map[string]*huma.Schema{typeNDJSON: schemaOf[api.ExecEvent](s), typeSSE: schemaOf[api.ExecEvent](s)},
	}, s.processOutput)
	stream(s, op{
		ID: "send-process-input", Method: http.MethodPost, Path: one + "/input", Scope: apikey.Run, Tag: tagExec, RawBody: typeBytes,
		Summary: "Send input to a background process", Status: http.StatusNoContent,
		Details: "The body is the input as it is. The answer comes when the process has been given all of it.",
	}, s.processInput)
	route(s, op{
		ID: "signal-process", Method: http.MethodPost, Path: one + "/signal", Scope: apikey.Run, Tag: tagExec,
		Summary: "Send a signal to a background process and all it started",
	}, s.signalProcess)
	route(s, op{
		ID: "forget-process", Method: http.MethodDelete, Path: one, Scope: apikey.Run, Tag: tagExec,
		Summary: "Drop a background process that has ended, and its output",
	}, s.forgetProcess)
	route(s, op{
		ID: "list-guest-processes", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/ps", Scope: apikey.Read, Tag: tagExec,
		Summary: "List all processes of the guest",
	}, s.listGuestProcesses)
}

func (s *Server) listProcesses(ctx context.Context, in *Ref) (*reply[ProcessList], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	list, err := sb.Processes(ctx)
	return &reply[ProcessList]{ProcessList{filled(list)}}, err
}

func (s *Server) listGuestProcesses(ctx context.Context, in *Ref) (*reply[GuestProcessList], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	list, err := sb.GuestProcesses(ctx)
	return &reply[GuestProcessList]{GuestProcessList{filled(list)}}, err
}

func (s *Server) startProcess(ctx context.Context, in *execInput) (*reply[api.Process], error) {
	c, err := commandOf(&in.Body)
	if err != nil {
		return nil, err
	}
	if c.Checkpoint {
		return nil, api.Errorf(api.Invalid, "start in the background: a checkpoint cannot be made of its end")
	}
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	p, err := sb.Background(ctx, c)
	return &reply[api.Process]{p}, err
}

type outputInput struct {
	ProcessRef
	Follow   bool   `query:"follow" doc:"go on until the process ends"`
	Log      bool   `query:"log" default:"true" doc:"begin with the output that is kept"`
	Encoding string `query:"encoding" enum:"utf-8,base64" default:"utf-8" doc:"of the output in the events"`
}

func (s *Server) processOutput(in *outputInput, w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return err
	}
	p, err := findProcess(ctx, sb, in.Process)
	if err != nil {
		return err
	}
	f := newFeed(w, r)
	defer f.end()
	if f.send(api.ExecEvent{Type: api.ExecStarted, PID: p.PID}) != nil {
		return nil
	}
	out := f.outputs(in.Encoding)
	_, err = sb.Attach(ctx, in.Process, smolvm.AttachOptions{Stdout: out.stdout, Stderr: out.stderr, NoFollow: !in.Follow, NoLog: !in.Log})
	if err != nil {
		return f.failed(out, api.ExecEvent{}, err)
	}
	out.flush()
	// Attach says of a process that runs what it says of one that exited with zero.
	if p, err = findProcess(ctx, sb, in.Process); err != nil {
		return f.failed(out, api.ExecEvent{}, err)
	}
	if !p.Running {
		f.send(api.ExecEvent{Type: api.ExecExit, Ended: p.Ended})
	}
	return nil
}

func findProcess(ctx context.Context, sb *smolvm.Sandbox, id string) (api.Process, error) {
	list, err := sb.Processes(ctx)
	if err != nil {
		return api.Process{}, err
	}
	i := slices.IndexFunc(list, func(p api.Process) bool { return p.ID == id })
	if i < 0 {
		return api.Process{}, api.Errorf(api.NotFound, "background process %.40q is not known", id)
	}
	return list[i], nil
}

type inputInput struct {
	ProcessRef
	Close bool `query:"close" doc:"end the process's input then"`
}

func (s *Server) processInput(in *inputInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	if err := sb.FeedProcess(r.Context(), in.Process, r.Body, in.Close); err != nil {
		return bodyError(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type signalInput struct {
	ProcessRef
	Body ProcessSignal
}

func (s *Server) signalProcess(ctx context.Context, in *signalInput) (*done, error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return new(done), sb.SignalProcess(ctx, in.Process, in.Body.Signal)
}

func (s *Server) forgetProcess(ctx context.Context, in *ProcessRef) (*done, error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return new(done), sb.ForgetProcess(ctx, in.Process)
}
