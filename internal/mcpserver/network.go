package mcpserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

func (s *Server) addNetwork() {
	add(s, tool[where, pendingOut]{
		name: "network_pending", title: "List network requests that wait", scope: apikey.Read,
		about: "List connections and requests of a sandbox that wait for a person's approval.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).pendingFlows,
	})
	add(s, tool[denyIn, answerOut]{
		name: "network_deny", title: "Deny a network request", scope: apikey.Manage,
		about: "Deny what waits in network_pending.",
		call: func(c *call, ctx context.Context, in denyIn) (answerOut, error) {
			return c.answer(ctx, in.Sandbox, smolvm.FlowAnswer{ID: in.ID, For: in.Scope})
		},
	})
	if !s.o.AllowApprove {
		return
	}
	add(s, tool[denyIn, answerOut]{
		name: "network_approve", title: "Approve a network request", scope: apikey.Manage,
		about: "Approve what waits in network_pending, in a person's place. Only for what the person's task plainly needs.",
		hints: hints{open: true},
		call: func(c *call, ctx context.Context, in denyIn) (answerOut, error) {
			return c.answer(ctx, in.Sandbox, smolvm.FlowAnswer{ID: in.ID, Allow: true, For: in.Scope})
		},
	})
}

type waiting struct {
	ID      string   `json:"id"`
	Host    string   `json:"host"`
	Port    int      `json:"port,omitempty"`
	Proto   string   `json:"proto"`
	Method  string   `json:"method,omitempty"`
	Path    string   `json:"path,omitempty"`
	Argv    []string `json:"argv,omitempty" jsonschema:"who asks"`
	Expires string   `json:"expires" jsonschema:"denied then; RFC 3339"`
}

type pendingOut struct {
	ran
	Pending []waiting `json:"pending"`
}

func (o pendingOut) text() string {
	if len(o.Pending) == 0 {
		return "Nothing waits."
	}
	var b strings.Builder
	for _, w := range o.Pending {
		fmt.Fprintf(&b, "%s: %s %s:%d %s %s, until %s\n", w.ID, w.Proto, w.Host, w.Port, w.Method, w.Path, w.Expires)
	}
	b.WriteString("A person answers with: smolvm network approve " + o.Sandbox)
	return b.String()
}

func (c *call) pendingFlows(ctx context.Context, in where) (pendingOut, error) {
	sb, info, err := c.look(ctx, in.Sandbox)
	if err != nil {
		return pendingOut{}, err
	}
	list, err := sb.PendingFlows(ctx)
	o := pendingOut{ran: ran{Sandbox: info.Name}, Pending: []waiting{}}
	for _, f := range list {
		o.Pending = append(o.Pending, waiting{f.ID, f.Host, f.Port, f.Proto, f.Method, f.Path, f.Argv, f.Expires.Format(time.RFC3339)})
	}
	return o, err
}

type denyIn struct {
	where
	ID    string `json:"id" jsonschema:"of network_pending"`
	Scope string `json:"scope,omitempty" jsonschema:"once (default), or sandbox: the same again too"`
}

type answerOut struct {
	ran
	ID      string `json:"id"`
	Allowed bool   `json:"allowed"`
}

func (o answerOut) text() string {
	if o.Allowed {
		return "approved " + o.ID
	}
	return "denied " + o.ID
}

func (c *call) answer(ctx context.Context, ref string, a smolvm.FlowAnswer) (answerOut, error) {
	sb, info, err := c.look(ctx, ref)
	if err != nil {
		return answerOut{}, err
	}
	if _, err = sb.AnswerFlow(ctx, a); api.ClassOf(err) == api.NotFound && err != nil {
		err = api.Errorf(api.NotFound, "nothing waits as %q (any more)", a.ID).WithRecovery("Call network_pending.")
	}
	return answerOut{ran{Sandbox: info.Name}, a.ID, a.Allow}, err
}
