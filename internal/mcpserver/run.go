package mcpserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

func (s *Server) addRun() {
	add(s, tool[runIn, runOut]{
		name: "run_command", title: "Run a command", scope: apikey.Run,
		about: "Run a shell command line (/bin/sh) in a sandbox, as root. Output beyond 16 KiB is cut in the middle and kept for read_output. " +
			"For servers and other things that do not end, use background: true.",
		hints: hints{destructive: true, open: true},
		call:  (*call).runCommand,
	})
	add(s, tool[codeIn, runOut]{
		name: "run_code", title: "Run code", scope: apikey.Run,
		about: "Run a program in a sandbox. Each call is a process of its own: keep state in files. Print what you want to see.",
		hints: hints{destructive: true, open: true},
		call:  (*call).runCode,
	})
	add(s, tool[outputIn, outputOut]{
		name: "read_output", title: "Read more output", scope: apikey.Run,
		about: "Read a page of output that was cut, or of a process in the background, by its output_id.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).readOutput,
	})
	add(s, tool[stopIn, stopOut]{
		name: "stop_process", title: "Stop a background process", scope: apikey.Run,
		about: "Send a signal to a process in the background and all it started.",
		hints: hints{destructive: true},
		call:  (*call).stopProcess,
	})
}

// how is how to run something.
type how struct {
	where
	Cwd     string            `json:"cwd,omitempty" jsonschema:"working directory; default: the home directory"`
	Env     map[string]string `json:"env,omitempty" jsonschema:"environment variables"`
	User    string            `json:"user,omitempty" jsonschema:"default root"`
	Stdin   string            `json:"stdin,omitempty" jsonschema:"standard input"`
	Timeout float64           `json:"timeout_seconds,omitempty" jsonschema:"then it is ended, and the output so far returned"`
}

type runIn struct {
	how
	Command    string `json:"command"`
	Background bool   `json:"background,omitempty" jsonschema:"true: return at once; timeout_seconds and stdin do not apply"`
	Checkpoint bool   `json:"checkpoint,omitempty" jsonschema:"true: record a step of the history afterwards, for rewind and diff"`
}

type codeIn struct {
	how
	Language string `json:"language"`
	Code     string `json:"code"`
}

// runOut says how a command ended and what it wrote.
type runOut struct {
	ran
	ExitCode    int      `json:"exit_code" jsonschema:"0 is success; 128+n where signal n ended it"`
	Stdout      string   `json:"stdout"`
	Stderr      string   `json:"stderr"`
	StdoutBytes int64    `json:"stdout_bytes" jsonschema:"of all it wrote"`
	StderrBytes int64    `json:"stderr_bytes"`
	OutputID    string   `json:"output_id,omitempty" jsonschema:"for read_output, where output was cut or the process is in the background"`
	TimedOut    bool     `json:"timed_out,omitempty"`
	OutOfMemory bool     `json:"out_of_memory,omitempty"`
	Running     bool     `json:"running,omitempty" jsonschema:"it goes on in the background"`
	Seconds     float64  `json:"seconds"`
	Denied      []string `json:"network_denied,omitempty" jsonschema:"what it could not reach, and why"`
	Step        *int     `json:"step,omitempty" jsonschema:"recorded in the history"`
}

func (o runOut) text() string {
	var b strings.Builder
	b.WriteString(o.said())
	part := func(s string) {
		b.WriteString(s)
		if s != "" && !strings.HasSuffix(s, "\n") {
			b.WriteByte('\n')
		}
	}
	part(o.Stdout)
	if o.Stderr != "" {
		b.WriteString("--- stderr ---\n")
		part(o.Stderr)
	}
	for _, d := range o.Denied {
		fmt.Fprintf(&b, "[network: %s]\n", d)
	}
	b.WriteString("[" + o.ending() + "]")
	return b.String()
}

// ending says how it ended, in words.
func (o runOut) ending() string {
	switch {
	case o.Running:
		return fmt.Sprintf("running in the background; its output: read_output {\"output_id\": %q}", o.OutputID)
	case o.TimedOut:
		return fmt.Sprintf("timed out after %.0f s and was ended; give a larger timeout_seconds, or background: true", o.Seconds)
	case o.OutOfMemory:
		return fmt.Sprintf("exit code %d: the sandbox ran out of memory; make one with a larger memory_mib", o.ExitCode)
	case o.Step != nil:
		return fmt.Sprintf("exit code %d, step %d", o.ExitCode, *o.Step)
	}
	return fmt.Sprintf("exit code %d", o.ExitCode)
}

// command is what all ways to run have in common.
func (h how) command() smolvm.Command {
	cmd := smolvm.Command{Dir: h.Cwd, Env: h.Env, User: h.User, Timeout: time.Duration(h.Timeout * float64(time.Second)), Tag: labelValue}
	if h.Stdin != "" {
		cmd.Stdin = strings.NewReader(h.Stdin)
	}
	return cmd
}

func (c *call) runCommand(ctx context.Context, in runIn) (runOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return runOut{}, err
	}
	cmd := in.how.command()
	cmd.Argv, cmd.Shell, cmd.Checkpoint = []string{in.Command}, smolvm.RawShell, in.Checkpoint
	if in.Background {
		return c.background(ctx, sb, r, cmd)
	}
	return c.run(ctx, sb, r, cmd)
}

func (c *call) background(ctx context.Context, sb *smolvm.Sandbox, r ran, cmd smolvm.Command) (runOut, error) {
	cmd.Stdin, cmd.Timeout, cmd.Checkpoint = nil, 0, false
	p, err := sb.Background(ctx, cmd)
	if err != nil {
		return runOut{}, err
	}
	return runOut{ran: r, Running: true, OutputID: processID(sb.ID(), p.ID)}, nil
}

// run runs a command to its end.
func (c *call) run(ctx context.Context, sb *smolvm.Sandbox, r ran, cmd smolvm.Command) (runOut, error) {
	out, errs := new(capture), new(capture)
	cmd.Stdout, cmd.Stderr = out, errs
	c.tellBy(func() string {
		return fmt.Sprintf("running in %s, %d bytes of output", r.Sandbox, out.size()+errs.size())
	})
	began := time.Now()
	checkpoint := cmd.Checkpoint
	cmd.Checkpoint = false // recorded below, where its number is told
	res, err := sb.Run(ctx, cmd)
	if err != nil {
		return runOut{}, missing(err, r.Sandbox)
	}
	o := runOut{
		ran: r, ExitCode: res.ExitCode, TimedOut: res.TimedOut, OutOfMemory: res.OOM,
		StdoutBytes: out.size(), StderrBytes: errs.size(), Seconds: time.Since(began).Round(time.Millisecond).Seconds(),
	}
	if res.ExitCode != 0 {
		o.Denied = denied(ctx, sb, began)
	}
	if checkpoint {
		step, err := sb.Checkpoint(ctx, smolvm.Checkpoint{Label: strings.Join(cmd.Argv, " "), Exit: &res.ExitCode})
		if err != nil {
			return runOut{}, api.Errorf(api.ClassOf(err), "the command ended with exit code %d, but its checkpoint was not recorded: %w", res.ExitCode, err)
		}
		o.Step = &step.Step
	}
	c.show(&o, out, errs)
	return o, nil
}

// show puts what a command wrote into its result, and keeps what is cut.
func (c *call) show(o *runOut, out, errs *capture) {
	id := c.outputs.next()
	forOut, forErr := share(out.size(), errs.size())
	var cutOut, cutErr bool
	o.Stdout, cutOut = out.show(forOut, id, streamOut)
	o.Stderr, cutErr = errs.show(forErr, id, streamErr)
	if cutOut || cutErr {
		o.OutputID = id
		c.outputs.keep(id, out, errs)
	}
}

// missing says what to do about a program that is not there.
func missing(err error, sandbox string) error {
	if !errors.Is(err, api.ErrNotFound) {
		return err
	}
	e := api.AsError(err)
	e.Recovery = fmt.Sprintf("Install it in sandbox %s with run_command (apt-get, pip, npm), or make a sandbox of an image that has it.", sandbox)
	return e
}

// maxDenied bounds the refusals that a result names.
const maxDenied = 5

// denied lists what the network refused since a time: most often that is why a
// command failed, and its own words do not say so.
func denied(ctx context.Context, sb *smolvm.Sandbox, since time.Time) []string {
	var list []string
	// Without a record there is nothing to say.
	_ = sb.NetworkLog(ctx, smolvm.NetworkLogOptions{Since: since, Denied: true}, func(e smolvm.NetworkEntry) error {
		to := e.Host
		if to == "" {
			to = e.Address
		}
		if e.Port > 0 {
			to = fmt.Sprintf("%s:%d", to, e.Port)
		}
		if line := fmt.Sprintf("%s was denied: %s", to, e.Reason); len(list) < maxDenied && !slices.Contains(list, line) {
			list = append(list, line)
		}
		return nil
	})
	return list
}

// languages are how programs of a language are run that are given as an argument.
var languages = []struct {
	name string
	argv []string
}{
	{"python", []string{"python3", "-c"}},
	{"node", []string{"node", "-e"}},
	{"bash", []string{"bash", "-c"}},
	{"sh", []string{"sh", "-c"}},
	{"perl", []string{"perl", "-e"}},
	{"ruby", []string{"ruby", "-e"}},
}

func languageNames() []string {
	var names []string
	for _, l := range languages {
		names = append(names, l.name)
	}
	return names
}

func (c *call) runCode(ctx context.Context, in codeIn) (runOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return runOut{}, err
	}
	cmd := in.how.command()
	for _, l := range languages {
		if l.name == in.Language {
			cmd.Argv = append(slices.Clone(l.argv), in.Code)
		}
	}
	return c.run(ctx, sb, r, cmd)
}

type outputIn struct {
	OutputID string `json:"output_id"`
	Stream   string `json:"stream,omitempty" jsonschema:"default stdout"`
	Offset   int64  `json:"offset,omitempty" jsonschema:"byte to begin at"`
	Limit    int    `json:"limit,omitempty" jsonschema:"bytes to read"`
}

type outputOut struct {
	Output     string `json:"output"`
	Total      int64  `json:"total" jsonschema:"bytes of the stream"`
	NextOffset int64  `json:"next_offset,omitempty" jsonschema:"where the next page begins; absent at the end of what is kept"`
	Dropped    int64  `json:"dropped,omitempty" jsonschema:"bytes at the end that were not kept"`
	Running    bool   `json:"running,omitempty" jsonschema:"the process goes on"`
	ExitCode   *int   `json:"exit_code,omitempty" jsonschema:"of a background process that ended"`
}

func (o outputOut) text() string {
	var tail []string
	if o.NextOffset > 0 {
		tail = append(tail, fmt.Sprintf("%d bytes in all; go on with offset %d", o.Total, o.NextOffset))
	} else if o.Dropped > 0 {
		tail = append(tail, fmt.Sprintf("%d bytes that follow were not kept; run it again with its output in a file", o.Dropped))
	}
	if o.Running {
		tail = append(tail, "still running")
	}
	if o.ExitCode != nil {
		tail = append(tail, fmt.Sprintf("exit code %d", *o.ExitCode))
	}
	if o.Output == "" && len(tail) == 0 {
		tail = []string{"no output"}
	}
	if len(tail) == 0 {
		return o.Output
	}
	return o.Output + "\n[" + strings.Join(tail, "; ") + "]"
}

func (c *call) readOutput(ctx context.Context, in outputIn) (outputOut, error) {
	if _, _, ok := cutProcessID(in.OutputID); ok {
		return c.readProcess(ctx, in)
	}
	out, err := c.outputs.get(in.OutputID)
	if err != nil {
		return outputOut{}, err
	}
	from := out.stdout
	if in.Stream == streamErr {
		from = out.err
	}
	part, next := page(from.kept, in.Offset, in.Limit)
	o := outputOut{Output: valid(part), Total: from.total, NextOffset: next}
	if next == 0 {
		o.Dropped = from.total - int64(len(from.kept))
	}
	return o, nil
}
