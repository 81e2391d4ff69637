package manager_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// deeds are what clients do to one sandbox at the same time, in any order.
var deeds = []struct {
	name string
	do   func(l *life, sb *smolvm.Sandbox) error
}{
	{"run", func(l *life, sb *smolvm.Sandbox) error {
		_, err := sb.Run(l.ctx, smolvm.Command{Argv: []string{"count"}})
		return err
	}},
	{"info", func(l *life, sb *smolvm.Sandbox) error { return errOf(sb.Info(l.ctx)) }},
	{"start", func(l *life, sb *smolvm.Sandbox) error { return sb.Start(l.ctx) }},
	{"stop", func(l *life, sb *smolvm.Sandbox) error { return sb.Stop(l.ctx, smolvm.StopOptions{GraceSeconds: -1}) }},
	{"hibernate", func(l *life, sb *smolvm.Sandbox) error {
		return sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true})
	}},
	{"pause", func(l *life, sb *smolvm.Sandbox) error { return sb.Pause(l.ctx) }},
	{"resume", func(l *life, sb *smolvm.Sandbox) error { return sb.Resume(l.ctx) }},
	{"checkpoint", func(l *life, sb *smolvm.Sandbox) error {
		return errOf(sb.Checkpoint(l.ctx, smolvm.Checkpoint{Label: "chaos"}))
	}},
	{"history", func(l *life, sb *smolvm.Sandbox) error { return errOf(sb.History(l.ctx)) }},
	{"rewind", func(l *life, sb *smolvm.Sandbox) error { return sb.Rewind(l.ctx, 0) }},
	{"snapshot", func(l *life, sb *smolvm.Sandbox) error {
		s, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{DiskOnly: rand.N(2) == 0})
		if err != nil {
			return err
		}
		if err := errOf(l.GetSnapshot(l.ctx, s.Name)); err != nil {
			return fmt.Errorf("a snapshot that was taken: %w: %w", errHalf, err)
		}
		return l.RemoveSnapshot(l.ctx, s.Name)
	}},
	{"fork", func(l *life, sb *smolvm.Sandbox) error {
		children, err := sb.Fork(l.ctx, smolvm.ForkOptions{})
		if err != nil {
			return err
		}
		if r, err := children[0].Run(l.ctx, smolvm.Command{Argv: []string{"got"}}); err != nil || string(r.Stdout) != "kept\n" {
			return fmt.Errorf("a child: %w: %+v, %w", errHalf, r, err)
		}
		return children[0].Remove(l.ctx)
	}},
}

// errHalf says that something that was said to be done is not whole.
var errHalf = errors.New("it is not whole")

// chaos has clients do deeds at once until each has done n.
func (l *life) chaos(sb *smolvm.Sandbox, n int, allowed func(error) bool) {
	l.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n {
				d := deeds[rand.N(len(deeds))]
				start := time.Now()
				err := d.do(l, sb)
				if err != nil && (errors.Is(err, errHalf) || !allowed(err)) {
					l.Errorf("%s: %v", d.name, err)
				}
				if took := time.Since(start); took > 20*time.Second {
					l.Errorf("%s took %v: %v", d.name, took, err)
				}
			}
		})
	}
	wg.Wait()
}

// whole checks that a sandbox, whatever was done to it, holds its work and can do
// everything.
func (l *life) whole(sb *smolvm.Sandbox) {
	l.Helper()
	if err := sb.Resume(l.ctx); err != nil && !errors.Is(err, smolvm.ErrUnavailable) {
		l.Error(err)
	}
	l.ok(sb.Start(l.ctx))
	l.says(sb, "got", "kept")
	h, err := sb.History(l.ctx)
	l.ok(err)
	for _, s := range h.Steps[max(1, len(h.Steps)-5):] {
		l.ok(sb.Rewind(l.ctx, s.Step))
		l.says(sb, "got", "kept")
	}
	l.ok(sb.Rewind(l.ctx, 0))
	l.counted(sb, 2)
	l.hibernate(sb)
	l.counted(sb, 3)
	l.ok(errOf(l.GC(l.ctx, false)))
	l.alone(sb)
	if list := l.snapshotNames(); len(list) > 0 {
		l.Errorf("%v are left", list)
	}
}

// patient gives a law more time than others.
func patient(t *testing.T) *life {
	l := newLife(t)
	l.ctx = t.Context()
	return l
}

// TestChaos has clients do everything to one sandbox at the same time. They may be
// told that it is not possible now, and nothing else.
func TestChaos(t *testing.T) {
	t.Parallel()
	l := patient(t)
	sb := l.create(smolvm.Spec{Name: "web"})
	l.says(sb, "put kept", "<nil>")
	l.counted(sb, 1)
	l.checkpoint(sb, "s")
	l.chaos(sb, 30, func(err error) bool {
		return errors.Is(err, smolvm.ErrUnavailable) || errors.Is(err, smolvm.ErrConflict)
	})
	l.whole(sb)
}

// TestChaosAndDeath is TestChaos with a killer about.
func TestChaosAndDeath(t *testing.T) {
	t.Parallel()
	l := patient(t)
	sb := l.create(smolvm.Spec{Name: "web"})
	l.says(sb, "put kept", "<nil>")
	l.counted(sb, 1)
	l.checkpoint(sb, "s")
	over := make(chan struct{})
	killed := async(func() error {
		tick := time.NewTicker(150 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return nil
			case <-tick.C:
			}
			if info, err := sb.Info(l.ctx); err == nil && info.SupervisorPID > 0 {
				syscall.Kill(info.SupervisorPID, syscall.SIGKILL)
			}
		}
	})
	l.chaos(sb, 30, func(err error) bool {
		return errors.Is(err, smolvm.ErrUnavailable) || errors.Is(err, smolvm.ErrConflict) ||
			errors.Is(err, smolvm.ErrInternal) && api.AsError(err).Recovery != ""
	})
	close(over)
	l.ok(<-killed)
	l.whole(sb)
	if tmp, _ := filepath.Glob(filepath.Join(l.Home, "tmp/*")); len(tmp) > 0 {
		t.Errorf("%v is left", tmp)
	}
}
