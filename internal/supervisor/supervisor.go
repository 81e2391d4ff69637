package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/forward"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/secret"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Supervisor is one sandbox's life.
type Supervisor struct {
	parts  Parts
	create *control.Create // of a new sandbox; nil for one that is taken up
	member *member         // of a pool's member; nil for others
	key    seal.Key        // authenticates what is saved
	// errand is what to do instead of running a sandbox.
	errand func(context.Context, *birth) (control.Birth, error)

	dir     store.SandboxDir
	lock    heldLock
	gate    *gate
	timings api.Timings
	vm      vmm.Machine
	server  *server
	idle    *idle
	ends    chan end          // asks live to end the sandbox
	swaps   chan func() error // has live change the sandbox; after an error it has no VM
	client  <-chan struct{}   // closed when the client has ended that began the sandbox
	up      chan struct{}     // closed when the sandbox has come up
	over    chan struct{}     // closed when the VM has ended and the state says so

	forwards *forward.Set  // ports of the host
	secrets  *secret.Vault // with values, which nothing else has

	from      *point.Point // what the sandbox continues; nil: it boots
	copied    bool         // others continue that too, and the guest does not know yet
	mem       memory       // what guest memory is made of; changed under still
	wiring    wiring       // its network card
	trust     trust        // the authority in whose name TLS is opened
	netlog    netRecord
	folders   folders
	emptySize int64 // of a layer of the disk that nothing was written to; zero: not known

	still   sync.Mutex // held while the VM stands still or is changed
	steps   sync.Mutex // held while a step is recorded or come back to
	renames sync.Mutex // held while the sandbox's name changes

	mu  sync.Mutex // guards what follows
	rec control.Record
	ses *guest.Session
}

// end is a wish to end the sandbox.
type end struct {
	state  api.State
	reason string
	grace  time.Duration // negative: at once
	remove bool
	// refused gets the reason where the wish cannot be fulfilled and the sandbox goes
	// on. Nil: it always can. It has room for one.
	refused chan error
}

// refuse answers a wish that cannot be fulfilled now, if it is one that can be
// refused.
func (e end) refuse(err error) bool {
	if e.refused == nil {
		return false
	}
	e.refused <- err
	return true
}

// live runs the sandbox until something ends it, then cleans up.
func (s *Supervisor) live(term <-chan os.Signal) {
	e := s.watch(term)
	slog.Info("sandbox ends", "state", e.state, "reason", e.reason, "remove", e.remove)
	s.finish(e)
}

// watch returns what ends the sandbox.
func (s *Supervisor) watch(term <-chan os.Signal) end {
	expired := time.NewTimer(0)
	defer expired.Stop()
	var breaks breaks
	for {
		select {
		case e := <-s.ends:
			if e.state == api.StateHibernated {
				if err := s.hibernate(); err != nil {
					e.refuse(err)
					continue
				}
			}
			return e
		case f := <-s.swaps:
			if err := f(); err != nil {
				// A member that could not be taken is nobody's.
				return end{state: api.StateError, reason: err.Error(), grace: -1, remove: s.gate.get().State == api.StatePooled}
			}
			expired.Reset(0) // the time to live may be another
		case <-s.vm.Done():
			return vmEnded(s.vm)
		case <-s.session().Done():
			if !breaks.allow(time.Now()) {
				return end{state: api.StateError, reason: "guest agent breaks its connection again and again", grace: -1}
			}
			if e := s.reconnect(); e != nil {
				return *e
			}
		case <-expired.C:
			at := s.record().Expires()
			if at.IsZero() || time.Now().Before(at) {
				expired.Reset(untilLook(at))
				continue
			}
			return end{state: api.StateStopped, reason: "its time to live is over", grace: -1, remove: true}
		case <-s.idle.fired:
			if e := s.idleOver(); e != nil {
				return *e
			}
		case <-s.lifeline():
			return end{state: api.StateStopped, reason: "its client ended", grace: -1, remove: true}
		case <-term:
			return end{state: api.StateStopped, reason: "supervisor was told to end", grace: api.DefaultGrace}
		}
	}
}

// lifeline is closed when the client ends on which the sandbox's life depends; nil
// where it depends on none.
func (s *Supervisor) lifeline() <-chan struct{} {
	if s.record().Spec.Ephemeral || s.gate.get().State == api.StatePooled {
		return s.client
	}
	return nil // the client may go
}

// idleOver returns what an idle timeout that has come does.
func (s *Supervisor) idleOver() *end {
	if !s.idle.quiet() {
		return nil
	}
	switch s.record().Spec.IdleAction {
	case api.IdleHibernate:
	case api.IdleRemove:
		return &end{state: api.StateStopped, reason: "idle timeout", grace: -1, remove: true}
	default:
		return &end{state: api.StateStopped, reason: "idle timeout", grace: api.DefaultGrace}
	}
	if err := s.hibernate(); err != nil {
		// Its memory is worth more than what it costs: try again later.
		slog.Warn("hibernate at idle timeout", "err", err)
		return nil
	}
	return &end{state: api.StateHibernated, reason: "idle timeout", grace: -1}
}

// lookAgain is how often the clock is looked at: a timer stands still while the
// host sleeps, and does not know when its clock is set.
const lookAgain = time.Minute

// untilLook is how long to wait for a moment; zero: it never comes.
func untilLook(at time.Time) time.Duration {
	if at.IsZero() {
		return 1<<63 - 1
	}
	return min(time.Until(at), lookAgain)
}

// breaks counts how often a guest has broken its connection lately. One that
// does nothing else would keep this process busy and fill its log.
type breaks []time.Time

const (
	breakTime = time.Minute
	maxBreaks = 20 // in breakTime
)

// allow notes a break and reports whether it may be mended.
func (b *breaks) allow(now time.Time) bool {
	*b = slices.DeleteFunc(*b, func(t time.Time) bool { return now.Sub(t) > breakTime })
	*b = append(*b, now)
	return len(*b) <= maxBreaks
}

// Why a wish to hibernate is refused that comes at a bad moment.
var (
	errGuestAway = api.Errorf(api.Unavailable, "the guest does not answer just now")
	errEnding    = api.Errorf(api.Conflict, "the sandbox is being stopped")
	errComingUp  = api.Errorf(api.Conflict, "the sandbox is coming up")
)

func vmEnded(vm vmm.Machine) end {
	if err := vm.Err(); err != nil {
		return end{state: api.StateError, reason: err.Error() + lastWords(vm), grace: -1}
	}
	return end{state: api.StateStopped, reason: "the guest powered off", grace: -1}
}

// reconnectTime bounds how long a running guest may leave a greeting unanswered:
// a busy one needs seconds under emulation, a dead one never answers.
const reconnectTime = 30 * time.Second

// reconnect greets the agent again after the channel broke. It returns what ends
// the sandbox, or nil when all is well.
func (s *Supervisor) reconnect() *end {
	slog.Warn("guest session ended; connecting again", "cause", s.session().Err())
	s.session().Close()
	ctx, cancel := context.WithTimeout(context.Background(), reconnectTime)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := s.connect(ctx)
		if err == nil {
			err = s.mountFolders(ctx)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		select {
		case <-s.vm.Done():
			e := vmEnded(s.vm)
			return &e
		default:
		}
		return &end{state: api.StateError, reason: "guest agent lost: " + err.Error(), grace: -1}
	case e := <-s.ends:
		cancel()
		err := <-done
		if e.refuse(errGuestAway) && err == nil {
			return nil
		}
		e.grace = -1 // there is nobody to ask
		if e.refused != nil {
			e = end{state: api.StateError, reason: errGuestAway.Error(), grace: -1}
		}
		return &e
	}
}

// finish ends the VM, writes the last state, answers who waits, and removes
// what is to be removed. From its first line on the sandbox is ending.
func (s *Supervisor) finish(e end) {
	if s.record().Spec.Ephemeral {
		e.remove = true
	}
	s.idle.stop()
	if s.member != nil {
		os.Remove(s.member.entry) // nobody need try it any more
	}
	if e.grace >= 0 {
		if err := s.shutDown(e.grace); err != nil {
			slog.Warn("guest did not shut down; killing it", "err", err)
		}
	}
	s.vm.Kill()
	s.wiring.unplug()
	s.keepUsed()
	s.netlog.close()
	s.session().Close()
	s.folders.close()
	if s.gate.get().State == api.StatePooled {
		e.state = api.StatePooled // nobody has seen it, and nobody is to; look removes what is left
	}
	if _, err := s.gate.update(func(st *control.Status) error {
		*st = control.Status{State: e.state, Reason: e.reason, Ended: time.Now(), Lived: st.Lived, Timings: st.Timings}
		return nil
	}); err != nil {
		slog.Error("write last state", "err", err)
	}
	close(s.over)
	s.hangUp()
	if e.remove {
		s.vanish()
	}
	s.release()
}

// shutDown asks the guest to end its processes and power off.
func (s *Supervisor) shutDown(grace time.Duration) error {
	// After the grace the agent kills, syncs and powers off: seconds under
	// emulation with a full page cache.
	ctx, cancel := context.WithTimeout(context.Background(), grace+10*time.Second)
	defer cancel()
	go func() {
		for {
			select {
			case e := <-s.ends:
				if e.refuse(errEnding) {
					continue
				}
				if e.grace < 0 {
					cancel() // somebody has no time for the grace
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	s.still.Lock() // a save under way must not see the guest move
	err := s.vm.Resume(ctx)
	s.still.Unlock()
	if err != nil {
		return err
	}
	c := guest.Client{Opener: s.session()}
	if err := c.Shutdown(ctx, guest.Shutdown{GraceMS: grace.Milliseconds()}); err != nil {
		return err
	}
	select {
	case <-s.vm.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// freezeTime bounds how long a guest that is to be paused may take to stop its
// processes.
const freezeTime = 5 * time.Second

// pause and resume the VM and say so in the state. On an error nothing moved.
func (s *Supervisor) pause(ctx context.Context) error {
	return s.halt(ctx, api.StatePaused, func(ctx context.Context) error {
		// Its processes too, so that they do not run in a copy of it before that has an
		// identity of its own. A guest that does not answer is paused all the same.
		quick, cancel := context.WithTimeout(ctx, freezeTime)
		defer cancel()
		c := guest.Client{Opener: s.session()}
		if err := c.Quiesce(quick, guest.Quiesce{Freeze: true}); err != nil {
			slog.Warn("stop the guest's processes", "err", err)
		}
		return s.vm.Pause(ctx)
	}, s.unpause)
}

func (s *Supervisor) resume(ctx context.Context) error {
	return s.halt(ctx, api.StateRunning, s.unpause, func(ctx context.Context) error { return s.vm.Pause(ctx) })
}

func (s *Supervisor) unpause(ctx context.Context) error {
	if err := s.vm.Resume(ctx); err != nil {
		return err
	}
	quick, cancel := context.WithTimeout(ctx, freezeTime)
	defer cancel()
	// Its clock stood still too.
	if err := (guest.Client{Opener: s.session()}).Thaw(quick, time.Now()); err != nil {
		slog.Warn("thaw the guest's processes", "err", err)
	}
	return nil
}

// halt moves the sandbox between running and paused. What it does is done outside of
// the gate: who only looks must not wait for a guest.
func (s *Supervisor) halt(ctx context.Context, to api.State, do, back func(context.Context) error) error {
	s.still.Lock()
	defer s.still.Unlock()
	if s.gate.get().State == to {
		return nil
	}
	err := s.ifUp(func() error { return do(ctx) })
	if err == nil {
		_, err = s.gate.update(func(st *control.Status) error {
			if st.State != api.StateRunning && st.State != api.StatePaused {
				return api.Errorf(api.Conflict, "sandbox is %s", st.State)
			}
			st.State = to
			return nil
		})
	}
	if err != nil {
		clean, cancel := undo.Context(ctx)
		defer cancel()
		back(clean)
	}
	return err
}

// describe puts together what is known of the sandbox.
func (s *Supervisor) describe() api.Sandbox { return control.Describe(s.record(), s.gate.get()) }

func (s *Supervisor) record() control.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

// change changes the record and its file: both or neither.
func (s *Supervisor) change(f func(*control.Record) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.rec
	if err := f(&next); err != nil {
		return err
	}
	if err := store.WriteJSON(s.dir.Spec(), next); err != nil {
		return api.Errorf(api.Internal, "write record: %w", err)
	}
	s.rec = next
	return nil
}

func (s *Supervisor) session() *guest.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ses
}

func (s *Supervisor) setSession(g *guest.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ses = g
}

// abandon undoes a birth whose client died at the last moment.
func (s *Supervisor) abandon() {
	s.finish(end{state: api.StateStopped, reason: "its client ended", grace: -1, remove: s.create != nil})
}

// vanish removes the sandbox's files and its name.
func (s *Supervisor) vanish() {
	rec := s.record()
	if err := s.parts.Store.Unpublish(rec.ID, rec.Spec.Name); err != nil {
		slog.Error("remove sandbox", "err", err)
	}
}

// heldLock is the sandbox's lock while this process lives.
type heldLock struct{ l *store.Lock }

func (h *heldLock) close() error {
	if h.l != nil {
		h.l.Unlock()
		h.l = nil
	}
	return nil
}

// hold takes the lock of a sandbox directory and notes the process id in it, so
// that a supervisor that does not answer can be killed.
func (s *Supervisor) hold(dir store.SandboxDir) error {
	l, err := store.TryLock(dir.Lock())
	if errors.Is(err, api.ErrConflict) {
		return api.Errorf(api.Conflict, "sandbox %s has a supervisor already", dir.ID()).WithCode(control.CodeSupervised)
	}
	if err != nil {
		return err
	}
	s.lock.l = l
	return l.Note(strconv.Itoa(os.Getpid()))
}

func (s *Supervisor) release() { s.lock.close() }

func dup2(from, to int) error {
	if err := unix.Dup3(from, to, 0); err != nil {
		return fmt.Errorf("redirect the log: %w", err)
	}
	return nil
}
