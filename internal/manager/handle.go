package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"github.com/smolvm/smolvm/internal/store"
)

// Handle is a sandbox that was found or made.
type Handle struct {
	m        *Manager
	id       string
	mu       sync.Mutex
	lifeline io.Closer // of an ephemeral sandbox that this client made or started
}

// ID returns the sandbox's id.
func (h *Handle) ID() string { return h.id }

// Info describes the sandbox as it is now.
func (h *Handle) Info(ctx context.Context) (api.Sandbox, error) { return h.m.look(ctx, h.id) }

func (h *Handle) dir() store.SandboxDir { return h.m.store.Sandbox(h.id) }

// ask asks the supervisor.
func (h *Handle) ask(ctx context.Context, route string, in, out any) error {
	return control.NewClient(h.dir().Socket()).Call(ctx, route, in, out)
}

// call is ask whose error says, where there is no supervisor, what the sandbox is.
func (h *Handle) call(ctx context.Context, route string, in, out any) error {
	return h.explain(ctx, h.ask(ctx, route, in, out))
}

// Open opens a guest stream. It implements guest.Opener. A sandbox that hibernates
// is woken for it.
func (h *Handle) Open(ctx context.Context, op guest.Op, req wire.Message) (st guest.Stream, err error) {
	err = h.awake(ctx, func() error {
		st, err = control.NewClient(h.dir().Socket()).Open(ctx, op, req)
		return err
	})
	return st, err
}

// awake does what needs a running sandbox, and wakes one that hibernates for it.
func (h *Handle) awake(ctx context.Context, do func() error) error {
	for wait := newPatience(); ; {
		err := do()
		asleep := err != nil && api.AsError(err).Code == control.CodeAsleep
		if !asleep && !errors.Is(err, control.ErrNoSupervisor) {
			return err
		}
		info, lookErr := h.Info(ctx)
		switch {
		case lookErr == nil && info.State == api.StateHibernated:
			if err := h.Start(ctx); err != nil && (!errors.Is(err, api.ErrConflict) || api.AsError(err).Code == api.CodePortTaken) {
				return err
			}
		case lookErr == nil && info.State != api.StateStopped && info.State != api.StateError:
			// It is waking, or has woken since.
		case !asleep:
			return h.explain(ctx, err)
		}
		if err := wait.more(ctx); err != nil {
			return err
		}
	}
}

// explain turns "nobody answers" into what the sandbox is instead of running.
func (h *Handle) explain(ctx context.Context, err error) error {
	if !errors.Is(err, control.ErrNoSupervisor) {
		return err
	}
	info, lookErr := h.Info(ctx)
	if lookErr != nil {
		return lookErr
	}
	return api.Errorf(api.Unavailable, "sandbox %q is %s%s", info.Name, info.State, because(info.Reason)).
		WithCode("not_running").WithRecovery("Start it with: smolvm start %s", info.Name)
}

func because(reason string) string {
	line, _, _ := strings.Cut(reason, "\n")
	if line == "" {
		return ""
	}
	return " (" + line + ")"
}

// Start boots the sandbox where it has no VM.
func (h *Handle) Start(ctx context.Context) error {
	for wait := newPatience(); ; {
		info, err := h.Info(ctx)
		if err != nil {
			return err
		}
		switch info.State {
		case api.StateRunning:
			return nil
		case api.StatePaused:
			return api.Errorf(api.Conflict, "start sandbox %q: it is paused", info.Name).
				WithRecovery("Resume it with: smolvm resume %s", info.Name)
		case api.StateCreating:
			return api.Errorf(api.Conflict, "start sandbox %q: it is coming up already", info.Name).
				WithRecovery("Wait for it, or end it with: smolvm kill %s", info.Name)
		}
		if !store.Locked(h.dir().Lock()) {
			_, lifeline, err := h.m.spawn(ctx, nil, "start", h.id)
			if err == nil {
				return h.keep(lifeline, info.Ephemeral)
			}
			if api.AsError(err).Code != control.CodeSupervised {
				return err
			}
		}
		// Its last supervisor is on its way out, or another start was faster.
		if err := wait.more(ctx); err != nil {
			return err
		}
	}
}

// keep holds the lifeline of an ephemeral sandbox.
func (h *Handle) keep(lifeline io.Closer, ephemeral bool) error {
	if !ephemeral {
		lifeline.Close() // the supervisor may have ended by now, which closes this too
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lifeline = lifeline
	return nil
}

// Stop stops the sandbox where it has a VM.
func (h *Handle) Stop(ctx context.Context, o api.Stop) error {
	for wait := newPatience(); ; {
		err := h.ask(ctx, control.RouteStop, o, nil)
		if err == nil {
			h.cut()
			return h.waitFree(ctx)
		}
		if !errors.Is(err, control.ErrNoSupervisor) && !errors.Is(err, control.ErrEnded) {
			return err
		}
		if !store.Locked(h.dir().Lock()) {
			return h.stopped(ctx, o) // there is nothing to stop
		}
		// It does not listen yet, or not any more.
		if err := wait.more(ctx); err != nil {
			return err
		}
	}
}

// stopped does what is left of a stop for a sandbox that has no VM.
func (h *Handle) stopped(ctx context.Context, o api.Stop) error {
	info, err := h.Info(ctx)
	if err != nil {
		return err
	}
	hibernates := info.State == api.StateHibernated
	if o.Hibernate {
		if hibernates {
			return nil
		}
		return api.Errorf(api.Conflict, "hibernate sandbox %q: it is %s", info.Name, info.State).
			WithCode("not_running").WithRecovery("Start it with: smolvm start %s", info.Name)
	}
	if !hibernates {
		return nil
	}
	// What it hibernated as is dropped, as the memory of a running one would be.
	return h.edit(func(*control.Record, func() error) error {
		if err := os.Remove(h.dir().Hibernated()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return store.WriteJSON(h.dir().State(), control.Status{State: api.StateStopped, Reason: "stopped by its user", Lived: true})
	})
}

// Pause halts the VM.
func (h *Handle) Pause(ctx context.Context) error {
	return h.call(ctx, control.RoutePause, nil, nil)
}

// Resume lets it go on.
func (h *Handle) Resume(ctx context.Context) error {
	return h.call(ctx, control.RouteResume, nil, nil)
}

// Wait returns when the sandbox has no VM any more.
func (h *Handle) Wait(ctx context.Context) (api.Sandbox, error) {
	var info api.Sandbox
	err := h.call(ctx, control.RouteWait, nil, &info)
	if err == nil || ctx.Err() != nil {
		return info, err
	}
	// It had none, or its supervisor was killed: what is left says which.
	if err := h.waitFree(ctx); err != nil {
		return api.Sandbox{}, err
	}
	return h.Info(ctx)
}

// killTime bounds how long a supervisor may take to end when told to end at
// once, before it is killed itself.
const killTime = 5 * time.Second

// Remove ends and removes the sandbox. One that is gone is no error.
func (h *Handle) Remove(ctx context.Context) error {
	info, err := h.Info(ctx)
	if errors.Is(err, api.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.cut()
	for {
		if err := h.end(ctx); err != nil {
			return err
		}
		err := h.m.discard(h.id, info.Name)
		if !errors.Is(err, api.ErrConflict) {
			return err
		}
		// Somebody started it again between end and discard.
	}
}

// end makes sure that no supervisor holds the sandbox.
func (h *Handle) end(ctx context.Context) error {
	if !store.Locked(h.dir().Lock()) {
		return nil
	}
	quick, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	for wait := newPatience(); ; {
		err := h.ask(quick, control.RouteKill, nil, nil)
		if err == nil && h.waitFree(quick) == nil {
			return nil
		}
		// One that does not listen may be on its way out, and must not be killed
		// while it removes its files.
		leaving := errors.Is(err, control.ErrNoSupervisor) || errors.Is(err, control.ErrEnded)
		if !leaving || wait.more(quick) != nil {
			break
		}
		if !store.Locked(h.dir().Lock()) {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	h.killHolder()
	return h.waitFree(ctx)
}

// killHolder kills the supervisor that holds the lock. The note in the lock may be
// an older holder's, whose process id is another's by now: a process that has not
// the lock open is left alone.
func (h *Handle) killHolder() {
	b, err := os.ReadFile(h.dir().Lock())
	if err != nil {
		return
	}
	pid, _ := strconv.Atoi(string(b))
	if pid <= 1 {
		return
	}
	p, err := os.FindProcess(pid) // from here on the id cannot become another's
	if err != nil {
		return
	}
	defer p.Release()
	if hasOpen(pid, h.dir().Lock()) {
		p.Kill()
	}
}

// hasOpen reports whether a process has a file open.
func hasOpen(pid int, path string) bool {
	want, err := os.Stat(path)
	if err != nil {
		return false
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		got, err := os.Stat(fd)
		return err == nil && os.SameFile(want, got)
	})
}

// waitFree waits until nobody holds the sandbox's lock.
func (h *Handle) waitFree(ctx context.Context) error {
	for wait := newPatience(); store.Locked(h.dir().Lock()); {
		if err := wait.more(ctx); err != nil {
			return err
		}
	}
	return nil
}

// patience paces looking for the end of a lock, which tells nobody: to wait in
// the kernel would mean to take the lock for a moment, before somebody who needs
// it, and could not be given up.
type patience struct{ next time.Duration }

func newPatience() patience { return patience{time.Millisecond} }

func (p *patience) more(ctx context.Context) error {
	t := time.NewTimer(p.next)
	defer t.Stop()
	p.next = min(2*p.next, 100*time.Millisecond)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cut closes the lifeline of an ephemeral sandbox.
func (h *Handle) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lifeline != nil {
		h.lifeline.Close()
	}
}

// Rename gives the sandbox another name.
func (h *Handle) Rename(ctx context.Context, name string) error {
	if err := api.CheckName(name); err != nil {
		return err
	}
	err := h.ask(ctx, control.RouteRename, control.Rename{Name: name}, nil)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return err
	}
	return h.edit(func(rec *control.Record, write func() error) error {
		old := rec.Spec.Name
		if old == name {
			return nil
		}
		rec.Spec.Name = name
		return h.m.store.Rename(h.id, old, name, write)
	})
}

// Env returns the sandbox's environment.
func (h *Handle) Env(ctx context.Context) (map[string]string, error) {
	if _, err := h.Info(ctx); err != nil {
		return nil, err
	}
	var rec control.Record
	err := store.ReadJSON(h.dir().Spec(), &rec)
	if rec.Spec.Env == nil {
		rec.Spec.Env = map[string]string{}
	}
	return rec.Spec.Env, err
}

// ChangeEnv changes the sandbox's environment.
func (h *Handle) ChangeEnv(ctx context.Context, c api.EnvChange) (out api.EnvChanged, err error) {
	err = h.ask(ctx, control.RouteSetEnv, c, &out)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return out, err
	}
	err = h.edit(func(rec *control.Record, write func() error) error {
		if out, err = control.ChangeEnv(&rec.Spec.Env, c); err != nil {
			return err
		}
		return write()
	})
	return out, err
}

// edit changes the record of a sandbox that has no supervisor.
func (h *Handle) edit(f func(rec *control.Record, write func() error) error) error {
	l, err := store.TryLock(h.dir().Lock())
	if errors.Is(err, api.ErrConflict) {
		return api.Errorf(api.Conflict, "change sandbox %s: it is just starting or ending, or being changed", h.id).
			WithRecovery("Try again.")
	}
	if err != nil {
		return err
	}
	defer l.Unlock()
	var rec control.Record
	if err := store.ReadJSON(h.dir().Spec(), &rec); err != nil {
		return err
	}
	return f(&rec, func() error { return store.WriteJSON(h.dir().Spec(), rec) })
}

// Stats measures what the sandbox uses.
func (h *Handle) Stats(ctx context.Context) (out api.Stats, err error) {
	err = h.call(ctx, control.RouteStats, nil, &out)
	return out, err
}
