package smolvm

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
)

// Processes lists the background processes that the sandbox keeps, running and
// ended.
func (s *Sandbox) Processes(ctx context.Context) ([]api.Process, error) { return s.processes(ctx) }

// GuestProcesses lists every process of the guest but kernel threads.
func (s *Sandbox) GuestProcesses(ctx context.Context) ([]GuestProcess, error) {
	return s.guestProcesses(ctx)
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
	return s.attach(ctx, id, o)
}

// SignalProcess sends a signal such as "SIGTERM" to a background process and all
// it started.
func (s *Sandbox) SignalProcess(ctx context.Context, id, signal string) error {
	return s.signalProcess(ctx, id, signal)
}

// ForgetProcess drops an ended background process and its output.
func (s *Sandbox) ForgetProcess(ctx context.Context, id string) error { return s.forget(ctx, id) }
