package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
)

// outcome is what a command came to. Where it failed part of the way it comes
// with an error.
type outcome struct {
	data any             // for programs
	text func(io.Writer) // for people; nil: there is nothing to say
	exit int             // status of a command that did what it was to do
}

// envelope is the one object that --json prints.
type envelope struct {
	OK       bool           `json:"ok"`
	Command  string         `json:"command"`
	ExitCode int            `json:"exit_code"`
	Data     any            `json:"data"`
	Error    *envelopeError `json:"error"`
}

type envelopeError struct {
	Code     string         `json:"code"`
	Message  string         `json:"message"`
	Recovery string         `json:"recovery,omitempty"`
	Details  map[string]any `json:"details,omitempty"`
}

// finish prints what a command came to and returns the exit status.
func (a *app) finish(ctx context.Context, cmd *cobra.Command, o *outcome, err error) int {
	a.progress.clear()
	code := o.status(ctx, err)
	switch {
	case a.json && (err != nil || o != nil):
		a.printJSON(a.envelope(ctx, cmd, o, err))
	case !a.json:
		if o != nil && o.text != nil {
			o.text(a.Out)
		}
		a.printError(ctx, cmd, err)
	}
	return code
}

// status is the exit status.
func (o *outcome) status(ctx context.Context, err error) int {
	if err == nil && o != nil {
		return o.exit
	}
	return exitCode(ctx, err)
}

func (a *app) envelope(ctx context.Context, cmd *cobra.Command, o *outcome, err error) envelope {
	e := envelope{OK: err == nil, Command: dotted(cmd), ExitCode: o.status(ctx, err)}
	if o != nil {
		e.Data = o.data
	}
	if err != nil {
		e.Error = a.envelopeError(ctx, cmd, err)
	}
	return e
}

func (a *app) envelopeError(ctx context.Context, cmd *cobra.Command, err error) *envelopeError {
	ae := api.AsError(err)
	e := &envelopeError{
		Code:     errorCode(ctx, err),
		Message:  ae.Message,
		Recovery: recovery(cmd, err),
		Details:  ae.Details,
	}
	var guest *guestExit
	if errors.As(err, &guest) {
		e.Message = fmt.Sprintf("command exited with status %d", guest.code)
	}
	return e
}

// recovery returns the next step after an error, or nothing.
func recovery(cmd *cobra.Command, err error) string {
	var usage *usageError
	if !errors.As(err, &usage) {
		return api.AsError(err).Recovery
	}
	if usage.hint != "" {
		return usage.hint
	}
	return fmt.Sprintf("See %s --help", cmd.CommandPath())
}

// printError says on standard error what went wrong and what to do now.
func (a *app) printError(ctx context.Context, cmd *cobra.Command, err error) {
	var guest *guestExit
	if err == nil || errors.As(err, &guest) {
		return
	}
	if interrupted(ctx) != 0 {
		fmt.Fprintf(a.Err, "smolvm: %v\n", context.Cause(ctx))
		return
	}
	fmt.Fprintf(a.Err, "smolvm: %s\n", cleanText(err.Error()))
	if next := recovery(cmd, err); next != "" {
		fmt.Fprintf(a.Err, "next: %s\n", cleanText(next))
	}
}

// note tells people something on standard error. Programs are not told.
func (a *app) note(format string, args ...any) {
	if a.json {
		return
	}
	a.progress.clear()
	fmt.Fprintf(a.Err, format+"\n", args...)
}

// printJSON prints one object, on one line where events went before it.
func (a *app) printJSON(v any) {
	enc := json.NewEncoder(a.Out)
	enc.SetEscapeHTML(false)
	if !a.streamed {
		enc.SetIndent("", "  ")
	}
	// What cannot be written to standard output cannot be told there either.
	_ = enc.Encode(v)
}

// event prints one event of a command that goes on. From then on every object
// is on a line of its own.
func (a *app) event(v any) {
	a.streamed = true
	a.printJSON(v)
}

// dotted names a command as programs do: image.pull.
func dotted(cmd *cobra.Command) string {
	words := strings.Fields(cmd.CommandPath())
	return strings.Join(words[1:], ".")
}
