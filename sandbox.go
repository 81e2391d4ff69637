package smolvm

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// Sandbox is one sandbox. Its methods may be called from many goroutines. It
// holds nothing that must be closed, unless it was created with Spec.Ephemeral:
// then Remove it when done, or let the end of the program do it.
type Sandbox struct{ h handle }

func (s *Sandbox) guest() guest.Client { return guest.Client{Opener: s.h} }

// ID returns the sandbox's id, which never changes.
func (s *Sandbox) ID() string { return s.h.ID() }

// Info describes the sandbox as it is now.
func (s *Sandbox) Info(ctx context.Context) (Info, error) { return s.h.Info(ctx) }

// Start boots a sandbox that is stopped or in error; its disk is as it was left.
// On a running one it does nothing. Class Conflict where it is paused or coming up
// already, Unavailable where the files of its image are gone. An ephemeral sandbox
// belongs to the program that started it last.
func (s *Sandbox) Start(ctx context.Context) error { return s.h.Start(ctx) }

// StopOptions says how to stop. The zero value gives processes
// api.DefaultGrace between SIGTERM and SIGKILL.
type StopOptions = api.Stop

// Stop ends the processes, writes the disk out and powers the sandbox off. The
// disk is kept. On a stopped sandbox it does nothing. An ephemeral sandbox is
// removed when it stops.
func (s *Sandbox) Stop(ctx context.Context, o StopOptions) error { return s.h.Stop(ctx, o) }

// Pause halts the virtual CPUs; memory is kept. On a paused sandbox it does nothing.
func (s *Sandbox) Pause(ctx context.Context) error { return s.h.Pause(ctx) }

// Resume lets a paused sandbox go on. On a running one it does nothing.
func (s *Sandbox) Resume(ctx context.Context) error { return s.h.Resume(ctx) }

// Remove ends the sandbox at once, whatever it does, and removes everything of
// it. On a removed sandbox it does nothing.
func (s *Sandbox) Remove(ctx context.Context) error { return s.h.Remove(ctx) }

// Rename gives the sandbox another name. Class Conflict where it is taken.
func (s *Sandbox) Rename(ctx context.Context, name string) error { return s.h.Rename(ctx, name) }

// Wait returns when the sandbox has no VM any more: stopped, in error or removed.
// Class NotFound where it was removed before Wait could see its end.
func (s *Sandbox) Wait(ctx context.Context) (Info, error) { return s.h.Wait(ctx) }

// Env returns the environment that every new process of the sandbox sees,
// without what its image sets.
func (s *Sandbox) Env(ctx context.Context) (map[string]string, error) { return s.h.Env(ctx) }

// ChangeEnv changes the environment of processes started from now on.
func (s *Sandbox) ChangeEnv(ctx context.Context, c api.EnvChange) (api.EnvChanged, error) {
	return s.h.ChangeEnv(ctx, c)
}

// Expose leads a port of the host into the sandbox, until Unexpose or the sandbox's
// end; it is there again when the sandbox starts again. Host port 0 picks one, which
// the returned port tells. On a sandbox that does not run it is bound at the next
// start. Class Conflict where the host's port is taken.
func (s *Sandbox) Expose(ctx context.Context, p Port) (Port, error) { return s.h.Expose(ctx, p) }

// Unexpose ends the ports that p means, in which fields may be left out, with their
// connections, and returns them. Class NotFound where there is none.
func (s *Sandbox) Unexpose(ctx context.Context, p Port) ([]Port, error) {
	return s.h.Unexpose(ctx, p)
}

// Ports lists the ports of the host that lead into the sandbox.
func (s *Sandbox) Ports(ctx context.Context) ([]Port, error) {
	info, err := s.Info(ctx)
	return info.Ports, err
}

// Stats measures what the sandbox uses. Class Unavailable where it is not running.
func (s *Sandbox) Stats(ctx context.Context) (Stats, error) { return s.h.Stats(ctx) }

// ConsoleOptions says what of the console to read.
type ConsoleOptions = api.ConsoleOptions

// Console copies the guest kernel's console to w. It is kept bounded, so old
// lines may be gone.
func (s *Sandbox) Console(ctx context.Context, w io.Writer, o ConsoleOptions) error {
	return s.h.Console(ctx, w, o)
}
