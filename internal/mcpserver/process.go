package mcpserver

import (
	"context"
	"fmt"
	"strings"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// processID is the output_id of a process in the background: SANDBOX/PROCESS.
func processID(sandbox, process string) string { return sandbox + "/" + process }

func cutProcessID(id string) (sandbox, process string, ok bool) { return strings.Cut(id, "/") }

// process finds a process in the background.
func (c *call) process(ctx context.Context, id string) (*smolvm.Sandbox, api.Process, error) {
	sandbox, name, _ := cutProcessID(id)
	sb, _, err := c.look(ctx, sandbox)
	if err != nil {
		return nil, api.Process{}, err
	}
	list, err := sb.Processes(ctx)
	if err != nil {
		return nil, api.Process{}, err
	}
	for _, p := range list {
		if p.ID == name {
			return sb, p, nil
		}
	}
	return nil, api.Process{}, api.Errorf(api.NotFound, "there is no background process %q", id).
		WithRecovery("Use the output_id that run_command returned.")
}

// readProcess reads a page of what is kept of a background process's output.
func (c *call) readProcess(ctx context.Context, in outputIn) (outputOut, error) {
	sb, p, err := c.process(ctx, in.OutputID)
	if err != nil {
		return outputOut{}, err
	}
	out, errs := new(capture), new(capture)
	if _, err := sb.Attach(ctx, p.ID, smolvm.AttachOptions{Stdout: out, Stderr: errs, NoFollow: true}); err != nil {
		return outputOut{}, err
	}
	from := out
	if in.Stream == streamErr {
		from = errs
	}
	part, next := page(from.kept, in.Offset, in.Limit)
	o := outputOut{Output: valid(part), Total: from.total, NextOffset: next, Running: p.Running}
	if p.Ended != nil {
		o.ExitCode = &p.Ended.ExitCode
	}
	return o, nil
}

type stopIn struct {
	OutputID string `json:"output_id" jsonschema:"of the process, as run_command returned it"`
	Signal   string `json:"signal,omitempty" jsonschema:"default SIGTERM"`
}

type stopOut struct {
	Signalled string `json:"signalled" jsonschema:"the output_id"`
}

func (o stopOut) text() string { return fmt.Sprintf("signalled %s", o.Signalled) }

func (c *call) stopProcess(ctx context.Context, in stopIn) (stopOut, error) {
	sb, p, err := c.process(ctx, in.OutputID)
	if err != nil {
		return stopOut{}, err
	}
	if in.Signal == "" {
		in.Signal = "SIGTERM"
	}
	if p.Running {
		err = sb.SignalProcess(ctx, p.ID, in.Signal)
	}
	return stopOut{in.OutputID}, err
}
