package cli

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/smolvm/smolvm/api"
)

// Exit statuses. Those from 124 are the ones of timeout(1), env(1) and docker run.
const (
	exitOK         = 0
	exitError      = 1
	exitUsage      = 2
	exitTimeout    = 124
	exitSmolvm     = 125 // smolvm failed where 1 could be the command's own status
	exitCannotExec = 126
	exitNoCommand  = 127
	exitSignal     = 128 // and the number of the signal
)

// Signal is the cause of a context that a signal ended.
type Signal struct{ os.Signal }

// Error returns what happened, for people.
func (s Signal) Error() string { return s.Signal.String() }

// usageError is a command line that cannot be understood.
type usageError struct {
	err  error
	hint string // the next step; empty: the command's help
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) *usageError {
	return &usageError{err: api.Errorf(api.Invalid, format, args...)}
}

// exitErr gives an error an exit status of its own.
type exitErr struct {
	code int
	err  error
}

func (e *exitErr) Error() string { return e.err.Error() }
func (e *exitErr) Unwrap() error { return e.err }

// guestExit is a command that ran and did not return zero. It has said itself
// what went wrong: nothing is printed for people.
type guestExit struct{ code int }

func (e *guestExit) Error() string { return "" }

// exitCode maps an error to the exit status.
func exitCode(ctx context.Context, err error) int {
	var (
		guest *guestExit
		exit  *exitErr
		usage *usageError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &guest):
		return guest.code
	case interrupted(ctx) != 0:
		return interrupted(ctx)
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &exit):
		return exit.code
	}
	return exitError
}

// interrupted returns the exit status for the signal that ended ctx, or 0.
func interrupted(ctx context.Context) int {
	var s Signal
	if ctx.Err() == nil || !errors.As(context.Cause(ctx), &s) {
		return 0
	}
	if n, ok := s.Signal.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitError
}

// classCodes gives each class its word in the JSON of errors.
var classCodes = map[api.Class]string{
	api.NotFound:    "not_found",
	api.Conflict:    "conflict",
	api.Invalid:     "invalid_input",
	api.Unavailable: "not_running",
	api.Timeout:     "timeout",
	api.Denied:      "refused",
	api.Exhausted:   "exhausted",
	api.Internal:    "runtime_error",
}

// errorCode returns the stable word for an error.
func errorCode(ctx context.Context, err error) string {
	var (
		guest *guestExit
		usage *usageError
	)
	switch {
	case errors.As(err, &guest):
		return "command_failed"
	case interrupted(ctx) != 0:
		return "interrupted"
	case errors.As(err, &usage):
		return "usage_error"
	}
	e := api.AsError(err)
	if e.Code != "" {
		return e.Code
	}
	if code, ok := classCodes[e.Class]; ok {
		return code
	}
	return classCodes[api.Internal]
}
