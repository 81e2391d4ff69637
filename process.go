package smolvm

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// Process is a command under way. Wait for it or Close it.
type Process struct {
	p              *guest.Process
	stdout, stderr io.Writer
	once           sync.Once
	ended          Ended
	err            error
}

// newProcess feeds in, which may be nil, to p. The reader is read from another
// goroutine, which ends with the input or with the first write after the process.
func newProcess(p *guest.Process, in io.Reader, stdout, stderr io.Writer) *Process {
	if in != nil {
		go func() {
			io.Copy(p, in)
			p.CloseInput()
		}()
	}
	return &Process{p: p, stdout: stdout, stderr: stderr}
}

// PID returns the process's id in the guest.
func (p *Process) PID() int { return p.p.PID }

// Wait delivers the output and returns how the process ended. It may be called
// again and then returns the same.
func (p *Process) Wait() (Ended, error) {
	p.once.Do(func() {
		e, err := p.p.Wait(p.stdout, p.stderr)
		p.ended, p.err = endedOf(e), err
		p.p.Close()
	})
	return p.ended, p.err
}

// Signal sends a signal such as "SIGINT" to the process and all it started.
func (p *Process) Signal(name string) error { return p.p.Signal(name) }

// Resize tells the process's terminal its new size.
func (p *Process) Resize(rows, cols int) error { return p.p.Resize(rows, cols) }

// Close ends the process if it still runs. A second call does nothing.
func (p *Process) Close() error { return p.p.Close() }

func endedOf(e guest.Exit) Ended {
	return Ended{
		ExitCode: e.Code, Signal: e.Signal, TimedOut: e.TimedOut, Truncated: e.Truncated, OOM: e.OOM,
		WallMS: float64(e.WallMS), UserMS: float64(e.UserMS), SystemMS: float64(e.SystemMS),
	}
}

// Processes lists the background processes that the sandbox keeps, running and
// ended.
func (s *Sandbox) Processes(ctx context.Context) ([]api.Process, error) {
	procs, err := s.guest().Procs(ctx)
	list := make([]api.Process, 0, len(procs))
	for _, p := range procs {
		a := api.Process{
			ID: p.Proc, PID: p.PID, Tag: p.Tag, Argv: p.Argv, User: p.User,
			Started: time.Unix(0, p.StartNS).UTC(), Running: p.Running,
		}
		if !p.Running {
			e := endedOf(p.Exit)
			a.Ended = &e
		}
		list = append(list, a)
	}
	return list, err
}

// GuestProcesses lists every process of the guest but kernel threads.
func (s *Sandbox) GuestProcesses(ctx context.Context) ([]GuestProcess, error) {
	entries, err := s.guest().Ps(ctx)
	list := make([]GuestProcess, 0, len(entries))
	for _, e := range entries {
		list = append(list, GuestProcess(e))
	}
	return list, err
}

// AttachOptions says what to do with an attached process.
type AttachOptions struct {
	Stdin          io.Reader // nil: nothing is sent
	Stdout, Stderr io.Writer // nil: dropped
	NoFollow       bool      // end after the kept output instead of with the process
	NoLog          bool      // leave the kept output out
}

// Attach connects to a background process: its kept output, then what it writes
// from now on, until it ends. With NoFollow, Ended is what is known so far.
func (s *Sandbox) Attach(ctx context.Context, id string, o AttachOptions) (Ended, error) {
	gp, err := s.guest().Attach(ctx, guest.ProcRef{Proc: id, NoFollow: o.NoFollow, NoLog: o.NoLog})
	if err != nil {
		return Ended{}, err
	}
	p := newProcess(gp, o.Stdin, o.Stdout, o.Stderr)
	defer p.Close()
	ended, err := p.Wait()
	if o.NoFollow && errors.Is(err, api.ErrUnavailable) {
		return ended, nil // it still runs
	}
	return ended, err
}

// SignalProcess sends a signal such as "SIGTERM" to a background process and all
// it started.
func (s *Sandbox) SignalProcess(ctx context.Context, id, signal string) error {
	return s.guest().Signal(ctx, id, signal)
}

// FeedProcess gives a background process of Command.KeepStdin what r holds, and returns
// when it was given all of it. end ends its input then; else more may follow. Class
// Conflict where the process takes none.
func (s *Sandbox) FeedProcess(ctx context.Context, id string, r io.Reader, end bool) error {
	return s.guest().Feed(ctx, id, r, end)
}

// ForgetProcess drops an ended background process and its output.
func (s *Sandbox) ForgetProcess(ctx context.Context, id string) error {
	return s.guest().Forget(ctx, id)
}
