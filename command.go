package smolvm

import (
	"context"
	"io"
	"time"

	"github.com/smolvm/smolvm/api"
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
// Classes: NotFound where the program is not in the sandbox, Invalid for a bad
// directory or user, Unavailable where the sandbox does not run.
func (s *Sandbox) Run(ctx context.Context, c Command) (*Result, error) { return s.run(ctx, c) }

// Exec starts a command and returns once it runs. Wait for it, or Close it: the
// process ends when ctx does.
func (s *Sandbox) Exec(ctx context.Context, c Command) (*Process, error) { return s.exec(ctx, c) }

// Background starts a command that goes on when the client ends. Its last
// megabyte of output is kept. Stdin, Stdout, Stderr and TTY must not be set.
func (s *Sandbox) Background(ctx context.Context, c Command) (api.Process, error) {
	return s.background(ctx, c)
}
