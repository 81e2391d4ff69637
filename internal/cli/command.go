package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// commandFlags are the flags that say how to run a command in a sandbox.
type commandFlags struct {
	dir, user, shell string
	interactive, tty bool
	timeout          durationFlag
}

func (f *commandFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	// Flags end where the command begins: its own are left alone.
	fs.SetInterspersed(false)
	fs.StringVarP(&f.dir, "cwd", "w", "", "working directory (default: the image's, else the user's home)")
	fs.StringVarP(&f.user, "user", "u", "", "`USER[:GROUP]`, by name or number (default: the image's, else root)")
	fs.StringVar(&f.shell, "shell", "", "give the command line to a shell: login (the user's own) or raw (/bin/sh)")
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on")
	fs.BoolVarP(&f.tty, "tty", "t", false, "run on a terminal")
	fs.Var(&f.timeout, "timeout", "end the command after this time, such as 30 (seconds) or 5m (default: never)")
	fixed(cmd, "shell", string(smolvm.LoginShell), string(smolvm.RawShell))
}

// command returns what to run.
func (a *app) command(f *commandFlags, argv []string) (smolvm.Command, error) {
	c := smolvm.Command{Argv: argv, Dir: f.dir, User: f.user, TTY: f.tty, Timeout: time.Duration(f.timeout)}
	switch c.Shell = smolvm.ShellMode(f.shell); c.Shell {
	case smolvm.NoShell:
	case smolvm.LoginShell, smolvm.RawShell:
		c.Argv = []string{shellJoin(argv)}
	default:
		return c, api.Errorf(api.Invalid, "shell %.80q is not known", f.shell).
			WithRecovery("Use %s or %s.", smolvm.LoginShell, smolvm.RawShell)
	}
	if f.interactive {
		c.Stdin = a.In
	}
	if f.tty && a.json {
		return c, usagef("--tty and --json exclude each other")
	}
	if f.tty && a.Keyboard != nil {
		// Without a size the guest takes its default, which is no error.
		c.Rows, c.Cols, _ = a.Keyboard.Size()
	}
	return c, nil
}

// commandData is the data of a command that ran.
type commandData struct {
	smolvm.Ended
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	// Where output is not text, as it was.
	StdoutBase64 []byte `json:"stdout_base64,omitempty"`
	StderrBase64 []byte `json:"stderr_base64,omitempty"`
}

func newCommandData(r *smolvm.Result) *commandData {
	d := &commandData{Ended: r.Ended, Stdout: string(r.Stdout), Stderr: string(r.Stderr)}
	if !utf8.Valid(r.Stdout) {
		d.StdoutBase64 = r.Stdout
	}
	if !utf8.Valid(r.Stderr) {
		d.StderrBase64 = r.Stderr
	}
	return d
}

// execute runs a command in a sandbox: its output goes through as it comes or,
// with --json, into the data. The error is nil, a guestExit, or has an exit
// status of its own.
func (a *app) execute(ctx context.Context, sb *smolvm.Sandbox, c smolvm.Command) (*commandData, error) {
	a.leaveStderr()
	if !a.json {
		c.Stdout, c.Stderr = a.overProgress(a.Out), a.overProgress(a.Err)
	}
	var res *smolvm.Result
	var err error
	if c.TTY {
		res, err = a.onTerminal(ctx, sb, c)
	} else {
		res, err = sb.Run(ctx, c)
	}
	if err != nil {
		return nil, cannotRun(err)
	}
	return newCommandData(res), endError(c, res.Ended)
}

// leaveStderr keeps progress out of standard error where a command's own goes there
// and nobody watches. A command may have to wait for its sandbox to be continued.
func (a *app) leaveStderr() {
	if !a.ErrTerm {
		a.progress.w = nil
	}
}

// overProgress returns a writer to w that first takes a line of progress off the
// terminal.
func (a *app) overProgress(w io.Writer) io.Writer {
	if a.progress.w == nil {
		return w
	}
	return clearing{&a.progress, w}
}

type clearing struct {
	m *meter
	w io.Writer
}

func (c clearing) Write(p []byte) (int, error) {
	c.m.clear()
	return c.w.Write(p)
}

// endError makes an error of a command that did not end well.
func endError(c smolvm.Command, e smolvm.Ended) error {
	switch {
	case e.TimedOut:
		err := api.Errorf(api.Timeout, "run %.80q: not done after %v", c.Argv, c.Timeout).
			WithRecovery("Give it longer with --timeout.")
		return &exitErr{exitTimeout, err}
	case e.ExitCode != 0:
		return &guestExit{e.ExitCode}
	}
	return nil
}

// cannotRun gives the error of a command that could not be run its exit status.
func cannotRun(err error) error {
	switch {
	case errors.Is(err, api.ErrNotFound):
		return &exitErr{exitNoCommand, err}
	case errors.Is(err, api.ErrDenied):
		return &exitErr{exitCannotExec, err}
	}
	return notOurs(err)
}

// notOurs gives an error of smolvm a status that the command in the sandbox
// would not have.
func notOurs(err error) error {
	var usage *usageError
	if err == nil || errors.As(err, &usage) {
		return err
	}
	return &exitErr{exitSmolvm, err}
}

// onTerminal runs a command on a terminal of the guest. Where there is one here
// too, its keys go through as they are and its size is passed on.
func (a *app) onTerminal(ctx context.Context, sb *smolvm.Sandbox, c smolvm.Command) (*smolvm.Result, error) {
	p, err := sb.Exec(ctx, c)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if a.Keyboard != nil && c.Stdin != nil {
		restore, err := a.Keyboard.Raw()
		if err != nil {
			return nil, api.Errorf(api.Unavailable, "set up the terminal: %w", err)
		}
		defer restore()
		defer a.followSize(p)()
	}
	ended, err := p.Wait()
	return &smolvm.Result{Ended: ended}, err
}

// followSize passes changes of the terminal's size on, until stop is called.
func (a *app) followSize(p *smolvm.Process) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
			}
			if rows, cols, err := a.Keyboard.Size(); err == nil {
				// A process that has ended has no size to change.
				_ = p.Resize(rows, cols)
			}
		}
	})
	return func() {
		signal.Stop(changed)
		close(done)
		wg.Wait()
	}
}

// againFlags parses flags that stand between the first argument and the command:
// exec SANDBOX --json -- true. It returns the command.
func againFlags(cmd *cobra.Command, args []string) ([]string, error) {
	if err := cmd.Flags().Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, err
		}
		return nil, flagError(cmd, err)
	}
	return cmd.Flags().Args(), nil
}
