package gateway

import (
	"context"
	"encoding/base64"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/plain"
)

const (
	tagExec = "Commands"
	// execBody is of a command with all the arguments and environment that the guest
	// protocol carries, escaped, and as much input.
	execBody = 16 << 20
	// maxTimeout is above what anybody waits and below what a Duration holds.
	maxTimeout = 365 * 24 * time.Hour
	// maxWhole bounds each stream of output that is held for one answer.
	maxWhole = 64 << 20
)

func (s *Server) execRoutes() {
	stream(s, op{
		ID: "exec", Method: http.MethodPost, Path: "/v1/sandboxes/{id}/exec", Scope: apikey.Run, Tag: tagExec,
		Summary: "Run a command and wait for it, or follow its output",
		Details: "The answer is an ExecResult when the command has ended; with Accept: application/x-ndjson or text/event-stream it is a " +
			"stream of ExecEvent as the command runs. A client that goes away ends the command and all it started. " +
			"keep_stdin is for the WebSocket and for background processes.",
		Answers: map[string]*huma.Schema{
			typeJSON: schemaOf[api.ExecResult](s), typeNDJSON: schemaOf[api.ExecEvent](s), typeSSE: schemaOf[api.ExecEvent](s),
		},
		MaxBody: execBody,
	}, s.exec)
	s.websocketRoutes()
}

type execInput struct {
	Ref
	Body api.Exec
}

func (s *Server) exec(in *execInput, w http.ResponseWriter, r *http.Request) error {
	c, err := commandOf(&in.Body)
	if err != nil {
		return err
	}
	if err := mayRecord(r.Context(), c); err != nil {
		return err
	}
	if in.Body.KeepStdin {
		return api.Errorf(api.Invalid, "exec: keep_stdin has no use here").
			WithRecovery("Send all input as stdin, or use the WebSocket of exec/ws.")
	}
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	if !accepts(r, typeNDJSON) && !accepts(r, typeSSE) {
		if c.OutputLimit > maxWhole {
			return api.Errorf(api.Invalid, "exec: output_limit is %d, and one answer holds at most %d bytes", c.OutputLimit, maxWhole).
				WithRecovery("Have the output sent as it comes, with Accept: %s.", typeNDJSON)
		}
		return execWhole(r.Context(), w, sb, c, in.Body.Encoding)
	}
	f := newFeed(w, r)
	defer f.end()
	return execFed(r.Context(), f, sb, c, in.Body.Encoding)
}

// execWhole answers when the command has ended.
func execWhole(ctx context.Context, w http.ResponseWriter, sb *smolvm.Sandbox, c smolvm.Command, encoding string) error {
	checkpoint := c.Checkpoint
	c.Checkpoint = false
	res, err := sb.Run(ctx, c)
	if err != nil {
		return err
	}
	out := api.ExecResult{Ended: res.Ended, Encoding: encoding}
	out.Stdout, out.Stderr = encode(encoding, res.Stdout), encode(encoding, res.Stderr)
	if checkpoint {
		if out.Step, err = record(ctx, sb, c, res.Ended); err != nil {
			e := *api.AsError(err)
			e.Details = map[string]any{"result": out} // the command has run all the same
			return &e
		}
	}
	return answerJSON(w, http.StatusOK, out)
}

// mayRecord refuses a command that would make a step of the history for who may not.
func mayRecord(ctx context.Context, c smolvm.Command) error {
	if !c.Checkpoint {
		return nil
	}
	return allow(ctx, apikey.Manage)
}

// record makes a step of the history of a command that has ended.
func record(ctx context.Context, sb *smolvm.Sandbox, c smolvm.Command, e api.Ended) (*api.Step, error) {
	step, err := sb.Checkpoint(ctx, smolvm.Checkpoint{Label: strings.Join(c.Argv, " "), Exit: &e.ExitCode})
	if err != nil {
		return nil, err
	}
	return &step, nil
}

// execFed answers with events as the command runs.
func execFed(ctx context.Context, f *feed, sb *smolvm.Sandbox, c smolvm.Command, encoding string) error {
	out := f.outputs(encoding)
	c.Stdout, c.Stderr = out.stdout, out.stderr
	p, err := sb.Exec(ctx, c)
	if err != nil {
		return err // nothing is written yet: it can have a status of its own
	}
	defer p.Close()
	if f.send(api.ExecEvent{Type: api.ExecStarted, PID: p.PID()}) != nil {
		return nil
	}
	ended, err := p.Wait()
	if err != nil {
		return f.failed(out, api.ExecEvent{}, err)
	}
	last := api.ExecEvent{Type: api.ExecExit, Ended: &ended}
	if c.Checkpoint {
		if last.Step, err = record(ctx, sb, c, ended); err != nil {
			return f.failed(out, last, err)
		}
	}
	out.flush()
	f.send(last)
	return nil
}

// commandOf says a command in the SDK's words. It fills the encoding of e in.
func commandOf(e *api.Exec) (c smolvm.Command, err error) {
	c = smolvm.Command{
		Argv: e.Argv, Env: e.Env, Dir: e.Dir, User: e.User, KeepStdin: e.KeepStdin,
		TTY: e.TTY, Rows: e.Rows, Cols: e.Cols, OutputLimit: e.OutputLimit, Tag: e.Tag, Checkpoint: e.Checkpoint,
	}
	if c.Timeout, err = timeoutOf(e.TimeoutSeconds); err != nil {
		return c, err
	}
	if e.Command != "" {
		if len(e.Argv) > 0 {
			return c, api.Errorf(api.Invalid, "exec: argv and command exclude each other")
		}
		c.Argv, c.Shell = []string{e.Command}, smolvm.RawShell
	}
	switch {
	case e.Shell == "" || e.Shell == api.ShellRaw && e.Command != "":
	case e.Shell == api.ShellLogin && e.Command != "":
		c.Shell = smolvm.LoginShell
	case e.Command == "":
		return c, api.Errorf(api.Invalid, "exec: shell is of command, and there is none")
	default:
		return c, api.Errorf(api.Invalid, "exec: shell %.40q is not %s or %s", e.Shell, api.ShellRaw, api.ShellLogin)
	}
	if err := setEncoding(&e.Encoding); err != nil || e.Stdin == "" {
		return c, err
	}
	c.Stdin = strings.NewReader(e.Stdin)
	if e.Encoding == api.EncodingBase64 {
		b, err := base64.StdEncoding.DecodeString(e.Stdin)
		if err != nil {
			return c, api.Errorf(api.Invalid, "exec: stdin is no base64: %w", err)
		}
		c.Stdin = strings.NewReader(string(b))
	}
	return c, nil
}

func setEncoding(encoding *string) error {
	switch *encoding {
	case "":
		*encoding = api.EncodingUTF8
	case api.EncodingUTF8, api.EncodingBase64:
	default:
		return api.Errorf(api.Invalid, "exec: encoding %.40q is not %s or %s", *encoding, api.EncodingUTF8, api.EncodingBase64)
	}
	return nil
}

func timeoutOf(seconds float64) (time.Duration, error) {
	if !(seconds >= 0 && seconds <= maxTimeout.Seconds()) {
		return 0, api.Errorf(api.Invalid, "exec: timeout_seconds %v is not between 0 and %v", seconds, maxTimeout.Seconds())
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second))), nil
}

func encode(encoding string, b []byte) string {
	if encoding == api.EncodingBase64 {
		return base64.StdEncoding.EncodeToString(b)
	}
	return plain.Of(b)
}
