package mcpserver

import "context"

// Scope is what a tool needs. The words are those of API keys.
type Scope string

// The scopes of tools.
const (
	ScopeRead   Scope = "read"   // look
	ScopeRun    Scope = "run"    // work inside sandboxes
	ScopeManage Scope = "manage" // make, remove and save them, and what they may reach
)

// Caller is who opened a session. The zero value may do everything.
type Caller struct {
	// ID tells callers apart: a session belongs to the one that opened it.
	ID string
	// May reports whether the caller has a scope. Nil: it has all.
	May func(Scope) bool
}

func (c Caller) may(s Scope) bool { return c.May == nil || c.May(s) }

type callerKey struct{}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns the zero Caller where there is none, as over stdio.
func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
