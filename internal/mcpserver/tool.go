package mcpserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// tool is one tool: what clients are told of it, and what it does.
type tool[In any, Out result] struct {
	name  string
	title string // for people
	about string // for models
	scope apikey.Scope
	hints hints
	call  func(*call, context.Context, In) (Out, error)
}

// hints are what a client may tell a person before a call.
type hints struct {
	readOnly    bool
	destructive bool // something is lost
	idempotent  bool
	open        bool // it may reach the internet
}

// result is the structured output of a tool.
type result interface {
	text() string // the same for models
}

// illustrated is a result that has something to be seen too.
type illustrated interface {
	images() []mcp.Content
}

// call is one call of a tool.
type call struct {
	*session
	status atomic.Value // func() string: what it is doing now
}

// tell says what the call is doing now, in the next notification of progress.
func (c *call) tell(format string, args ...any) {
	c.tellBy(func() string { return fmt.Sprintf(format, args...) })
}

func (c *call) tellBy(f func() string) { c.status.Store(f) }

func add[In any, Out result](s *Server, t tool[In, Out]) {
	in, out := schemas[In, Out](t.name)
	no := false
	s.scopes[t.name] = t.scope
	mcp.AddTool(s.mcp, &mcp.Tool{
		Name: t.name, Title: t.title, Description: t.about,
		InputSchema: in, OutputSchema: out,
		Annotations: &mcp.ToolAnnotations{
			Title: t.title, ReadOnlyHint: t.hints.readOnly, IdempotentHint: t.hints.idempotent,
			DestructiveHint: pick(t.hints.destructive, nil, &no), OpenWorldHint: pick(t.hints.open, nil, &no),
		},
	}, func(ctx context.Context, req *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
		st := sessionOf(ctx)
		if !st.caller.may(t.scope) {
			return failed(scopeError(t.name, t.scope)), nil, nil
		}
		c := &call{session: st}
		stop := c.notify(ctx, req)
		res, err := t.call(c, ctx, in)
		stop()
		if err != nil {
			return failed(err), nil, nil
		}
		content := []mcp.Content{&mcp.TextContent{Text: res.text()}}
		if i, ok := any(res).(illustrated); ok {
			content = append(content, i.images()...)
		}
		return &mcp.CallToolResult{Content: content}, res, nil
	})
}

func pick[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}

// notify sends notifications of progress, where the client asked for them, until
// stop is called.
func (c *call) notify(ctx context.Context, req *mcp.CallToolRequest) (stop func()) {
	token := req.Params.GetProgressToken()
	if token == nil {
		return func() {}
	}
	began := time.Now()
	c.tell("%s is under way", req.Params.Name)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(c.s.times.progress)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			seconds := time.Since(began).Seconds()
			// A client that does not listen is none of the tool's business.
			_ = req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
				ProgressToken: token, Progress: seconds,
				Message: fmt.Sprintf("%s (%.0f s)", c.status.Load().(func() string)(), seconds),
			})
		}
	})
	return func() {
		close(ended)
		wg.Wait()
	}
}

// errorKey is where a failed call's result has the error for programs.
const errorKey = "dev.smolvm/error"

// failed makes a result of an error: what happened, and what to do now.
func failed(err error) *mcp.CallToolResult {
	if errors.Is(err, context.Canceled) {
		err = api.Errorf(api.Timeout, "the call was cancelled, and what it ran was ended")
	}
	e := api.AsError(err)
	text := fmt.Sprintf("error (%s): %s", e.Class, e.Message)
	if next := nextStep(e); next != "" {
		text += "\nNext: " + next
	}
	return &mcp.CallToolResult{
		Meta:    mcp.Meta{errorKey: e},
		Content: []mcp.Content{&mcp.TextContent{Text: text}},
		IsError: true,
	}
}

// nextStep is what an error says to do now, in words of tools: a model has no
// command line of smolvm.
func nextStep(e *api.Error) string {
	if !strings.Contains(e.Recovery, "smolvm ") && !strings.Contains(e.Recovery, "--") {
		return e.Recovery
	}
	switch {
	case e.Class == api.Conflict:
		return "Call list_sandboxes to see what is there and in which state."
	case e.Class == api.Unavailable && strings.Contains(e.Recovery, "start"):
		return "Call start_sandbox."
	}
	return "Ask the person who runs the smolvm server: " + e.Recovery
}

func scopeError(name string, s apikey.Scope) error {
	return api.Errorf(api.Denied, "call %s: the API key has no scope %q", name, s).WithCode("scope").
		WithRecovery("Ask for a key with that scope.")
}

// onlyAllowed takes out of a list the tools that the caller may not call.
func (s *Server) onlyAllowed(l *mcp.ListToolsResult, c Caller) {
	l.Tools = slices.DeleteFunc(slices.Clone(l.Tools), func(t *mcp.Tool) bool { return !c.may(s.scopes[t.Name]) })
}
