package mcpserver

import (
	"context"

	"github.com/smolvm/smolvm/internal/apikey"
)

// Caller is who opened a session. The zero value may do everything.
type Caller struct {
	// ID tells callers apart: a session belongs to the one that opened it.
	ID string
	// Scope is how far the caller's key reaches; tools beyond it are not shown. Empty:
	// there is no key, and no bound.
	Scope apikey.Scope
}

func (c Caller) may(s apikey.Scope) bool { return c.Scope == "" || c.Scope.Allows(s) }

type callerKey struct{}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns the zero Caller where there is none, as over stdio.
func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
