package manager_test

import (
	"context"
	"errors"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// watched begins to watch and returns what is there and where the events come.
func (l *life) watched() (present map[string]smolvm.Info, events <-chan smolvm.SandboxEvent) {
	l.Helper()
	ctx, cancel := context.WithCancel(l.ctx)
	come := make(chan smolvm.SandboxEvent)
	ended := async(func() error {
		return l.WatchSandboxes(ctx, func(e smolvm.SandboxEvent) error {
			select {
			case come <- e:
			case <-ctx.Done():
			}
			return nil
		})
	})
	l.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			l.Errorf("the watch ended with %v", err)
		}
	})
	present = map[string]smolvm.Info{}
	for {
		select {
		case e := <-come:
			if e.Kind == api.SandboxReady {
				return present, come
			}
			if e.Kind != api.SandboxPresent {
				l.Errorf("%+v", e)
			}
			present[e.Sandbox.ID] = e.Sandbox
		case <-l.ctx.Done():
			l.Fatalf("the watch does not begin: %v", present)
		}
	}
}

// seen waits for an event of a kind, and a state unless that is empty, of a sandbox.
func (l *life) seen(events <-chan smolvm.SandboxEvent, id string, kind api.SandboxEventKind, state smolvm.State) smolvm.SandboxEvent {
	l.Helper()
	var all []smolvm.SandboxEvent
	for {
		select {
		case e := <-events:
			all = append(all, e)
			if (id == "" || e.Sandbox.ID == id) && e.Kind == kind && (state == "" || e.Sandbox.State == state) {
				return e
			}
		case <-l.ctx.Done():
			l.Fatalf("no event %s %s of %s; there were %+v", kind, state, id, all)
		}
	}
}

var watchLaws = []law{
	{"what happens to a sandbox is seen", func(l *life) {
		there := l.create(smolvm.Spec{Name: "there"})
		present, events := l.watched()
		if len(present) != 1 || present[there.ID()].State != api.StateRunning || present[there.ID()].Name != "there" {
			l.Errorf("%+v", present)
		}
		sb := l.create(smolvm.Spec{})
		if e := l.seen(events, sb.ID(), api.SandboxCreated, ""); e.Sandbox.State != api.StateRunning {
			l.seen(events, sb.ID(), api.SandboxChanged, api.StateRunning)
		}
		l.ok(sb.Pause(l.ctx))
		l.seen(events, sb.ID(), api.SandboxChanged, api.StatePaused)
		l.ok(sb.Resume(l.ctx))
		l.seen(events, sb.ID(), api.SandboxChanged, api.StateRunning)
		l.ok(sb.Rename(l.ctx, "other"))
		if e := l.seen(events, sb.ID(), api.SandboxChanged, ""); e.Sandbox.Name != "other" {
			l.Errorf("after a rename: %+v", e)
		}
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.seen(events, sb.ID(), api.SandboxChanged, api.StateStopped)
		l.ok(sb.Start(l.ctx))
		l.seen(events, sb.ID(), api.SandboxChanged, api.StateRunning)
		l.ok(sb.Remove(l.ctx))
		l.seen(events, sb.ID(), api.SandboxRemoved, "")
		l.ok(there.Remove(l.ctx))
		l.seen(events, there.ID(), api.SandboxRemoved, "")
	}},
	{"the death of a supervisor is seen", func(l *life) {
		sb := l.create(smolvm.Spec{})
		_, events := l.watched()
		l.kill(sb)
		if e := l.seen(events, sb.ID(), api.SandboxChanged, api.StateError); e.Sandbox.Reason != "its supervisor died" || e.Sandbox.SupervisorPID != 0 {
			l.Errorf("%+v", e)
		}
	}},
	{"what waits in a pool is seen when it is taken", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		present, events := l.watched()
		if len(present) > 0 {
			l.Errorf("%+v", present)
		}
		sb := l.claimed(smolvm.Spec{})
		l.seen(events, sb.ID(), api.SandboxCreated, api.StateRunning)
		l.ok(sb.Remove(l.ctx))
		if e := l.seen(events, "", api.SandboxRemoved, ""); e.Sandbox.ID != sb.ID() {
			l.Errorf("%s was removed", e.Sandbox.ID)
		}
	}},
	{"what was missed while nobody read is told", func(l *life) {
		gate := make(chan struct{})
		ctx, cancel := context.WithCancelCause(l.ctx)
		begun, done := make(chan struct{}), errors.New("seen")
		last := smolvm.SandboxEvent{}
		sb := l.create(smolvm.Spec{})
		ended := async(func() error {
			return l.WatchSandboxes(ctx, func(e smolvm.SandboxEvent) error {
				if e.Kind == api.SandboxPresent {
					close(begun)
					<-gate
				}
				if last = e; e.Kind == api.SandboxRemoved {
					cancel(done)
				}
				return nil
			})
		})
		<-begun
		l.ok(sb.Pause(l.ctx))
		l.ok(sb.Remove(l.ctx))
		close(gate)
		if err := <-ended; !errors.Is(err, done) || last.Sandbox.ID != sb.ID() {
			l.Errorf("%v, %+v", err, last)
		}
	}},
}

func TestWatchLaws(t *testing.T) { hold(t, watchLaws) }
