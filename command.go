package smolvm

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// ShellMode says how Command.Argv becomes a process.
type ShellMode string

const (
	// NoShell executes Argv as it is.
	NoShell ShellMode = ""
	// LoginShell gives Argv[0] to the user's own shell, started as a login shell.
	LoginShell ShellMode = "login"
	// RawShell gives Argv[0] to /bin/sh -c.
	RawShell ShellMode = "raw"
)

// DefaultOutputLimit bounds what Run keeps of stdout and of stderr, each, in bytes.
const DefaultOutputLimit = 10 << 20

// Command says what to run in a sandbox, and with what.
type Command struct {
	// Argv is the program and its arguments, or with Shell one command line.
	// Empty: the image's command.
	Argv  []string
	Shell ShellMode

	Env  map[string]string // beside, and before, the sandbox's and the image's
	Dir  string            // empty: the image's, else the user's home
	User string            // name or number, optionally :group; empty: the image's, else root

	Stdin io.Reader // nil: the process reads end of file
	// KeepStdin lets a background process wait for input that Attach sends.
	// Without it the process reads end of file.
	KeepStdin bool
	// Stdout and Stderr are given the output as it comes. Nil: Run keeps it in
	// its Result; Exec drops it.
	Stdout, Stderr io.Writer

	TTY        bool // run on a terminal; all output comes to Stdout
	Rows, Cols int  // of the terminal; zero: 24 and 80

	// Timeout ends the command and everything it started. Zero: none.
	Timeout time.Duration
	// OutputLimit bounds stdout and stderr, each, in bytes; what is beyond is
	// dropped and Ended.Truncated says so. Zero: none for what goes to a writer,
	// DefaultOutputLimit for what Run keeps.
	OutputLimit int64

	Tag string // shown in lists of processes

	// Checkpoint has Run record a step of the history when the command has ended,
	// with the command as its label; see Spec.Checkpoint for every command.
	Checkpoint bool
}

// ShellCommand is a Command that gives one line to /bin/sh.
func ShellCommand(line string) Command { return Command{Argv: []string{line}, Shell: RawShell} }

// Ended says how a process ended.
type Ended = api.Ended

// Result is what Run returns.
type Result struct {
	Ended
	Stdout, Stderr []byte
}

// OK reports whether the command exited with status zero.
func (r *Result) OK() bool { return r.ExitCode == 0 }

// Run runs a command and waits for it. If the context ends first the command is
// ended and the context's error returned; if Command.Timeout ends it, that is no
// error: Result.TimedOut is set and the output so far kept.
//
// Where a checkpoint was asked for and failed, both result and error are returned.
//
// Classes: NotFound where the program is not in the sandbox, Invalid for a bad
// directory or user, Unavailable where the sandbox does not run.
func (s *Sandbox) Run(ctx context.Context, c Command) (*Result, error) {
	var out, errs guest.Capped
	if c.Stdout == nil {
		c.Stdout, out.Left = &out, limit(c.OutputLimit)
	}
	if c.Stderr == nil {
		c.Stderr, errs.Left = &errs, limit(c.OutputLimit)
	}
	if c.OutputLimit == 0 && out.Left > 0 && errs.Left > 0 {
		c.OutputLimit = DefaultOutputLimit
	}
	p, err := s.Exec(ctx, c)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	ended, err := p.Wait()
	if err != nil {
		return nil, err
	}
	ended.Truncated = ended.Truncated || out.Cut || errs.Cut
	res := &Result{Ended: ended, Stdout: out.Bytes, Stderr: errs.Bytes}
	if !c.Checkpoint {
		return res, nil
	}
	_, err = s.Checkpoint(ctx, Checkpoint{Label: strings.Join(c.Argv, " "), Exit: &ended.ExitCode})
	return res, err
}

// Exec starts a command and returns once it runs. Wait for it, or Close it: the
// process ends when ctx does.
func (s *Sandbox) Exec(ctx context.Context, c Command) (*Process, error) {
	e, err := c.wire()
	if err != nil {
		return nil, err
	}
	p, err := s.guest().Exec(ctx, e)
	if err != nil {
		return nil, err
	}
	return newProcess(p, c.Stdin, c.Stdout, c.Stderr), nil
}

// Background starts a command that goes on when the client ends. Its last
// megabyte of output is kept. Stdin, Stdout, Stderr and TTY must not be set.
func (s *Sandbox) Background(ctx context.Context, c Command) (api.Process, error) {
	if c.Stdin != nil || c.Stdout != nil || c.Stderr != nil || c.TTY {
		return api.Process{}, api.Errorf(api.Invalid, "start in the background: input, output and terminal cannot be given").
			WithRecovery("Attach to the process once it runs.")
	}
	e, err := c.wire()
	if err != nil {
		return api.Process{}, err
	}
	e.Stdin = c.KeepStdin
	started, err := s.guest().Start(ctx, e)
	if err != nil {
		return api.Process{}, err
	}
	return api.Process{ID: started.Proc, PID: started.PID, Tag: c.Tag, Argv: c.Argv, User: c.User, Started: time.Now(), Running: true}, nil
}

// wire says the command in the guest protocol's words.
func (c Command) wire() (guest.Exec, error) {
	e := guest.Exec{
		Argv: c.Argv, Dir: c.Dir, User: c.User, Stdin: c.Stdin != nil,
		TTY: c.TTY, Rows: c.Rows, Cols: c.Cols,
		TimeoutMS: c.Timeout.Milliseconds(), OutputLimit: c.OutputLimit, Tag: c.Tag,
	}
	switch c.Shell {
	case NoShell:
	case LoginShell:
		e.Shell = guest.ShellLogin
	case RawShell:
		e.Shell = guest.ShellRaw
	default:
		return e, api.Errorf(api.Invalid, "shell %q is not known", c.Shell).WithRecovery("Use %s or %s, or none.", LoginShell, RawShell)
	}
	if e.Shell != guest.ShellNone && len(c.Argv) != 1 {
		return e, api.Errorf(api.Invalid, "a shell takes one command line, not %d", len(c.Argv))
	}
	if c.Timeout < 0 || c.OutputLimit < 0 {
		return e, api.Errorf(api.Invalid, "timeout %v and output limit %d must not be negative", c.Timeout, c.OutputLimit)
	}
	if c.Timeout > 0 && e.TimeoutMS == 0 {
		e.TimeoutMS = 1 // the protocol counts whole milliseconds, and zero is none
	}
	if err := api.CheckEnv(c.Env); err != nil {
		return e, err
	}
	for _, k := range slices.Sorted(maps.Keys(c.Env)) {
		e.Env = append(e.Env, k+"="+c.Env[k])
	}
	return e, nil
}

func limit(n int64) int64 {
	if n == 0 {
		return DefaultOutputLimit
	}
	return n
}
