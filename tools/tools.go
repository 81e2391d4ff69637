// Package tools gives a language model a computer: tools with a name, a
// description, a JSON schema and a call, in no framework's words. An adapter for a
// framework is a loop over them.
//
//	sb, err := smolvm.Create(ctx, smolvm.Spec{Ephemeral: true})
//	if err != nil { ... }
//	defer sb.Remove(context.WithoutCancel(ctx))
//	set := tools.In(sb, tools.Options{})
//	for _, t := range set { // what the model is told
//		declare(t.Name, t.Description, t.Parameters)
//	}
//	answer, err := set.Call(ctx, call.Name, call.Arguments) // when it asks
//
// Every call is bounded in time and in what it answers.
package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// Tool is something that a model may ask for.
type Tool struct {
	Name        string // lower case letters and underscores
	Description string // for the model
	// Parameters is the JSON schema (draft 2020-12) of the arguments, which are an
	// object: "type", "properties", "required" (a []string) and "additionalProperties".
	Parameters map[string]any

	run func(ctx context.Context, arguments []byte) (any, error)
}

// Call does what the model asks for and returns what to tell it, as JSON.
// Arguments are a JSON object; empty ones are {}.
//
// What the model can put right, such as bad arguments or a missing file, is part
// of the answer: {"error": ...} with the fields of an [smolvm.Error]. An error is
// returned where the program must act: the context ended, or the sandbox cannot be
// used.
func (t Tool) Call(ctx context.Context, arguments []byte) (string, error) {
	answer, err := t.run(ctx, arguments)
	if err == nil {
		return encode(answer), nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	class := api.ClassOf(err)
	if errors.As(err, new(noSandbox)) || class == api.Unavailable || class == api.Internal {
		return "", fmt.Errorf("%s: %w", t.Name, err)
	}
	return failure(err), nil
}

// noSandbox is why there is no sandbox to work in: nothing that a model could mend.
type noSandbox struct{ error }

func (e noSandbox) Unwrap() error { return e.error }

// Set is the tools of one agent.
type Set []Tool

// Call calls the tool of that name; see [Tool.Call]. A name that is not in the set
// is told to the model, with those that are.
func (s Set) Call(ctx context.Context, name string, arguments []byte) (string, error) {
	var names []string
	for _, t := range s {
		if t.Name == name {
			return t.Call(ctx, arguments)
		}
		names = append(names, t.Name)
	}
	return failure(api.Errorf(api.NotFound, "there is no tool %q", name).
		WithRecovery("Use one of: %s.", strings.Join(names, ", "))), nil
}

// Defaults of Options.
const (
	DefaultTimeout = 2 * time.Minute
	DefaultLimit   = 16 << 10
)

// Options bounds what the tools do. The zero value works.
type Options struct {
	// Timeout is the longest that a call may take, beside the creation of a sandbox.
	// The model may ask for less. Zero: DefaultTimeout.
	Timeout time.Duration
	// Limit bounds each text of an answer, such as stdout, in bytes. Zero: DefaultLimit.
	Limit int
	// User runs commands, by name or number. Empty: the image's, else root.
	User string
}

func (o Options) orDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	return o
}

// In returns the tools of one sandbox: run_command, run_code, read_file,
// write_file, list_files. What one call leaves there, the next one finds. The
// sandbox stays the caller's to remove.
func In(sb *smolvm.Sandbox, o Options) Set {
	b := box{o.orDefaults(), func(context.Context) (*smolvm.Sandbox, func(), error) {
		return sb, func() {}, nil
	}}
	return Set{b.runCommand(), b.runCode(), b.readFile(), b.writeFile(), b.listFiles()}
}

// Fresh returns tools that run in a sandbox of their own for each call, removed
// with all that the call left: run_command and run_code. Spec.Ephemeral is set for
// them. A nil client is the default one.
func Fresh(c *smolvm.Client, spec smolvm.Spec, o Options) Set {
	if c == nil {
		c = new(smolvm.Client)
	}
	spec.Ephemeral = true
	b := box{o.orDefaults(), func(ctx context.Context) (*smolvm.Sandbox, func(), error) {
		sb, err := c.Create(ctx, spec)
		if err != nil {
			return nil, nil, err
		}
		return sb, func() { remove(ctx, sb) }, nil
	}}
	return Set{b.runCommand(), b.runCode()}
}

// removeTimeout bounds the removal of a sandbox. What it does not reach ends with
// this program, because the sandbox is ephemeral.
const removeTimeout = 30 * time.Second

func remove(ctx context.Context, sb *smolvm.Sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	sb.Remove(ctx)
}

// box is where the tools of a set work.
type box struct {
	Options
	open func(context.Context) (sb *smolvm.Sandbox, done func(), err error)
}

// define makes a tool from the type of its arguments and what it does with them.
func define[A any](b box, name, description string, do func(context.Context, *smolvm.Sandbox, A) (any, error)) Tool {
	schema, err := jsonschema.For[A](nil)
	if err != nil {
		panic(err) // a type of ours that has no schema
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		panic(err)
	}
	run := func(ctx context.Context, arguments []byte) (any, error) {
		var a A
		if err := decode(resolved, arguments, &a); err != nil {
			return nil, api.Errorf(api.Invalid, "arguments of %s: %w", name, err)
		}
		sb, done, err := b.open(ctx)
		if err != nil {
			return nil, noSandbox{err}
		}
		defer done()
		answer, err := b.bounded(ctx, func(ctx context.Context) (any, error) { return do(ctx, sb, a) })
		if errors.Is(err, api.ErrNotFound) { // a file, or the sandbox?
			if _, gone := sb.Info(ctx); gone != nil {
				return nil, noSandbox{err}
			}
		}
		return answer, err
	}
	return Tool{Name: name, Description: description, Parameters: parameters(schema), run: run}
}

// grace is how much later than a command's own timeout the call ends: time for its
// output to come.
const grace = 15 * time.Second

func (b box) bounded(ctx context.Context, do func(context.Context) (any, error)) (any, error) {
	bound, cancel := context.WithTimeout(ctx, b.Timeout+grace)
	defer cancel()
	answer, err := do(bound)
	if err != nil && errors.Is(bound.Err(), context.DeadlineExceeded) {
		return nil, api.Errorf(api.Timeout, "it took longer than %v", b.Timeout)
	}
	return answer, err
}

// decode checks arguments before it takes them: a model is told what is wrong.
func decode(schema *jsonschema.Resolved, arguments []byte, into any) error {
	if len(bytes.TrimSpace(arguments)) == 0 {
		arguments = []byte("{}")
	}
	var value any
	if err := json.Unmarshal(arguments, &value); err != nil {
		return err
	}
	if err := schema.Validate(value); err != nil {
		return err
	}
	return json.Unmarshal(arguments, into)
}

// parameters gives a schema in the form that the SDKs of models take.
func parameters(schema *jsonschema.Schema) map[string]any {
	text, err := json.Marshal(schema)
	var m map[string]any
	if err := errors.Join(err, json.Unmarshal(text, &m)); err != nil {
		panic(err) // it came from a type of ours
	}
	if schema.Required == nil {
		schema.Required = []string{} // some SDKs take no null
	}
	m["required"] = schema.Required
	return m
}

func failure(err error) string {
	return encode(map[string]any{"error": api.AsError(err)})
}

// encode writes JSON without the escapes for HTML, which only cost tokens.
func encode(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // types of ours, or text
	}
	return strings.TrimSuffix(b.String(), "\n")
}
