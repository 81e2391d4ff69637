package supervisor

import (
	"context"
	"os"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
)

// begin makes the sandbox or takes it up, and boots it. After an error nothing
// of a new sandbox is left, and an old one is stopped or in error.
func (s *Supervisor) begin(ctx context.Context, b *birth) error {
	t := time.Now()
	var u undo.Stack
	defer u.Run()
	if s.create != nil {
		if err := s.make(ctx, b); err != nil {
			return err
		}
		u.Add(s.release)
		u.Add(s.vanish)
	} else {
		if err := s.takeUp(ctx); err != nil {
			return err
		}
		u.Add(s.release)
	}
	s.timings.PrepareMS = ms(t)
	if err := s.redirectLog(); err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	u.Add(s.hangUp)
	u.Add(func() { close(s.over) })
	if err := s.openPorts(); err != nil {
		return err
	}
	if s.from == nil || !s.from.Full() { // to continue takes too little to be told
		b.progress(control.Progress{Step: "boot"})
	}
	if err := s.bootOrEnd(ctx); err != nil {
		return err
	}
	if s.create == nil {
		// From here on what it wrote since counts more than what it hibernated as.
		os.Remove(s.dir.Hibernated())
		s.sweepParts()
	}
	s.timings.TotalMS = ms(t)
	up := s.running
	if s.member != nil {
		s.member.birth = b
		up = func() error { return s.wait(ctx) }
	}
	if err := up(); err != nil {
		s.vm.Kill()
		return err
	}
	close(s.up)
	u.Success()
	return nil
}

// takeUp locks an existing sandbox and moves it to creating.
func (s *Supervisor) takeUp(ctx context.Context) error {
	if _, err := os.Stat(s.dir.Spec()); err != nil {
		return api.Errorf(api.NotFound, "start sandbox %s: there is none", s.dir.ID())
	}
	if err := s.hold(s.dir); err != nil {
		return err
	}
	err := store.ReadJSON(s.dir.Spec(), &s.rec)
	var st control.Status
	if damaged := store.ReadJSON(s.dir.State(), &st); damaged != nil {
		st = control.Status{Lived: true} // the disk may hold work
	}
	if st.State != api.StateStopped && st.State != api.StateHibernated {
		// The lock was free: whatever the last supervisor wrote, it is dead.
		st.State = api.StateError
	}
	if err == nil {
		err = s.takeSecrets(&s.rec.Spec) // their names
	}
	if err == nil {
		err = s.checkHost(ctx, s.rec.Spec)
	}
	if err == nil {
		err = s.wake(ctx)
	}
	if err == nil {
		s.gate = openGate(s.dir.State(), st)
		_, err = s.gate.update(func(st *control.Status) error {
			*st = control.Status{State: api.StateCreating, Lived: st.Lived, SupervisorPID: os.Getpid()}
			return nil
		})
	}
	if err != nil {
		s.lock.close()
		return api.Errorf(api.ClassOf(err), "start sandbox %s: %w", s.dir.ID(), err)
	}
	return nil
}

// wake has the sandbox continue what it hibernated as, if it did. A new layer
// takes what it writes, so that the attempt can be repeated.
func (s *Supervisor) wake(ctx context.Context) error {
	p, err := point.Open(s.key, s.dir.Hibernated(), s.dir.Parts())
	if api.ClassOf(err) == api.NotFound {
		return nil
	}
	if err == nil {
		err = s.checkMatch(p, s.rec.Spec)
	}
	if err != nil {
		return api.Errorf(api.ClassOf(err), "continue what it hibernated as: %w", err).
			WithRecovery("Drop its memory and start from its disk alone: smolvm stop %[1]s, then smolvm start %[1]s", s.rec.Spec.Name)
	}
	layer, err := s.newLayer(s.dir.Parts())
	if err != nil {
		return err
	}
	s.from = p
	return s.change(func(r *control.Record) error { r.Disk = over(p.Disk, layer); return nil })
}

// checkHost refuses what this host cannot give.
func (s *Supervisor) checkHost(ctx context.Context, spec api.Spec) error {
	caps, err := s.parts.Driver.Host(ctx)
	if err != nil {
		return err
	}
	level := caps.Isolation
	if spec.Accel == api.AccelTCG {
		level = api.Emulated
	}
	if !level.AtLeast(spec.MinIsolation) {
		return api.Errorf(api.Denied, "isolation %s is demanded, this host gives %s: %s",
			spec.MinIsolation, level, why(caps.NoKVM, "accelerator tcg was asked for")).
			WithRecovery("Enable KVM (see: smolvm doctor), or accept emulation with --min-isolation emulated.")
	}
	if spec.Accel == api.AccelKVM && caps.Accel != api.AccelKVM {
		return api.Errorf(api.Unavailable, "accelerator kvm is demanded, but %s", caps.NoKVM).
			WithRecovery("Enable KVM (see: smolvm doctor), or use --accel tcg.")
	}
	return nil
}

// running publishes that the sandbox runs.
func (s *Supervisor) running() error {
	info := s.vm.Info()
	_, err := s.gate.update(func(st *control.Status) error {
		st.State, st.Reason, st.Lived, st.Ended = api.StateRunning, "", true, time.Time{}
		st.Started = info.Started.UTC().Round(time.Millisecond)
		if c := s.record().Created; c.After(st.Started) { // a pool's member ran before it was anybody's
			st.Started = c
		}
		st.VMMPID, st.Machine, st.VMM = info.PID, info.Machine, info.Version
		st.Accel, st.Isolation = info.Accel, info.Accel.Isolation()
		st.Timings = s.timings
		return nil
	})
	return err
}

// redirectLog sends what the process says, a panic's trace too, to the
// sandbox's log, which starts anew with each supervisor and so stays small.
func (s *Supervisor) redirectLog() error {
	f, err := os.OpenFile(s.dir.Log(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return dup2(int(f.Fd()), 2)
}

func (s *Supervisor) listen() error {
	l, err := sockpath.Listen(s.dir.Socket())
	if err != nil {
		return api.Errorf(api.Internal, "listen on the sandbox's socket: %w", err)
	}
	s.serve(l)
	return nil
}

func ms(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

func why(reasons ...string) string {
	for _, r := range reasons {
		if r != "" {
			return r
		}
	}
	return "unknown"
}
