package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
)

// bootTime bounds a boot, from the VMM's start to the agent's answer. Under
// emulation it takes 3 s on quiet cores; 100 sandboxes booting on two cores
// take their turns.
const bootTime = 3 * time.Minute

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
	b.progress(control.Progress{Step: "boot"})
	if err := s.bootOrEnd(ctx); err != nil {
		return err
	}
	if s.create == nil && s.from != nil {
		// From here on what it wrote since counts more than what it hibernated as.
		os.Remove(s.dir.Hibernated())
	}
	s.sweepParts()
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
	u.Success()
	return nil
}

// make prepares a new sandbox's directory in tmp/ and publishes it.
func (s *Supervisor) make(ctx context.Context, b *birth) error {
	spec := s.create.Spec.WithDefaults()
	if err := spec.Check(); err != nil {
		return err
	}
	if err := s.nameFree(spec.Name); err != nil {
		return err
	}
	if err := s.checkHost(ctx, spec); err != nil {
		return err
	}
	s.rec = control.Record{ID: newID(), Spec: spec, Created: time.Now().UTC().Round(time.Millisecond)}
	if err := s.originate(ctx, b); err != nil {
		return err
	}
	scratch, err := s.parts.Store.Scratch("create")
	if err != nil {
		return err
	}
	defer scratch.Close()
	tmp := store.SandboxDir(scratch.Path("sandbox"))
	for _, dir := range []string{string(tmp), tmp.Parts(), tmp.VM()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := s.makeDisk(ctx, tmp.Parts()); err != nil {
		return err
	}
	if err := s.hold(tmp); err != nil {
		return err
	}
	s.gate = openGate(tmp.State(), control.Status{State: api.StateCreating, SupervisorPID: os.Getpid()})
	if _, err := s.gate.move(api.StateCreating, ""); err != nil {
		return errors.Join(err, s.lock.close())
	}
	if err := s.publish(tmp); err != nil {
		return errors.Join(err, s.lock.close())
	}
	return nil
}

// nameFree refuses a name that is taken, before the work; the store decides.
func (s *Supervisor) nameFree(name string) error {
	if name == "" {
		return nil
	}
	id, err := s.parts.Store.ByName(name)
	if err != nil {
		return nil
	}
	return api.Errorf(api.Conflict, "name %q is taken by sandbox %s", name, id).
		WithRecovery("Choose another name, or remove it with: smolvm rm %s", name)
}

// originate finds what the sandbox is made of: a snapshot or a fork, a template,
// or the bare image.
func (s *Supervisor) originate(ctx context.Context, b *birth) error {
	spec := &s.rec.Spec
	if dir, origin := s.savedOrigin(); dir != "" {
		p, err := point.Open(s.key, dir.Manifest(), dir.Parts())
		if err != nil {
			return noSnapshot(spec.FromSnapshot, err)
		}
		s.from, s.rec.Image, s.rec.Origin = p, p.Image, origin
		spec.Image, spec.CPUs, spec.MemoryMiB, spec.DiskMiB = p.Ref, p.Match.CPUs, p.Match.MemoryMiB, p.Match.DiskMiB
		if !p.Full() {
			return nil
		}
		return s.checkMatch(p, *spec)
	}
	var err error
	if s.rec.Image, err = s.parts.Provider.Image(ctx, spec.Image, b.progress); err != nil {
		return err
	}
	s.rec.Origin = "boot"
	if _, ok := s.parts.Driver.(vmm.Restorer); !ok || spec.NoTemplate {
		return nil
	}
	s.rec.Origin = "template"
	s.from, err = s.template(ctx, b)
	return err
}

// savedOrigin is the directory of what the caller said to continue, if it did.
func (s *Supervisor) savedOrigin() (store.PointDir, string) {
	if s.create.Point != "" {
		return store.PointDir(filepath.Join(s.parts.Store.Root(), s.create.Point)), s.create.Origin
	}
	if name := s.rec.Spec.FromSnapshot; name != "" {
		return s.parts.Store.Snapshot(name), "snapshot " + name
	}
	return "", ""
}

func noSnapshot(name string, err error) error {
	if name != "" && api.ClassOf(err) == api.NotFound {
		return api.Errorf(api.NotFound, "find snapshot %q: there is none", name).
			WithRecovery("List what there is with: smolvm snapshot ls")
	}
	return err
}

func (s *Supervisor) template(ctx context.Context, b *birth) (*point.Point, error) {
	match, err := s.matchOf(s.rec.Spec, "")
	if err != nil {
		return nil, err
	}
	budget := int64(s.create.TemplateBudgetMiB)
	if budget == 0 {
		budget = api.DefaultTemplateBudgetMiB
	}
	t := templates{parts: s.parts, key: s.key, budget: budget << 20, tell: b.progress}
	return t.get(ctx, s.rec.Spec, s.rec.Image, match)
}

// makeDisk makes the writable disk: a new layer over what the sandbox continues,
// or a new file system.
func (s *Supervisor) makeDisk(ctx context.Context, parts string) error {
	if s.from == nil {
		s.rec.Disk = []string{point.NewPart(partRaw)}
		return s.parts.Provider.Disk(ctx, filepath.Join(parts, s.rec.Disk[0]), s.rec.Spec.DiskMiB)
	}
	if err := s.from.LinkTo(parts); err != nil {
		return err
	}
	layer := point.NewPart(partLayer)
	s.rec.Disk = append(s.from.Disk[:len(s.from.Disk):len(s.from.Disk)], layer)
	if err := s.parts.Provider.Overlay(filepath.Join(parts, layer), s.rec.Spec.DiskMiB); err != nil {
		return err
	}
	s.topSize = fileSize(filepath.Join(parts, layer))
	return nil
}

// publish gives the sandbox its name and its place.
func (s *Supervisor) publish(tmp store.SandboxDir) error {
	generated := s.rec.Spec.Name == ""
	if s.member != nil {
		if err := store.WriteJSON(tmp.Spec(), s.rec); err != nil {
			return err
		}
		if err := os.Rename(string(tmp), string(s.parts.Store.Sandbox(s.rec.ID))); err != nil {
			return err
		}
		s.placed()
		return nil
	}
	for {
		if generated {
			s.rec.Spec.Name = newName()
		}
		if err := store.WriteJSON(tmp.Spec(), s.rec); err != nil {
			return err
		}
		err := s.parts.Store.Publish(string(tmp), s.rec.ID, s.rec.Spec.Name)
		if generated && errors.Is(err, api.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		s.placed()
		return nil
	}
}

// placed notes where the sandbox lies from now on.
func (s *Supervisor) placed() {
	s.dir = s.parts.Store.Sandbox(s.rec.ID)
	s.gate.path = s.dir.State()
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
		return api.Errorf(api.ClassOf(err), "continue what it hibernated as: %w", err).WithCode(api.AsError(err).Code)
	}
	layer := point.NewPart(partLayer)
	if err := s.parts.Provider.Overlay(s.part(layer), s.rec.Spec.DiskMiB); err != nil {
		return err
	}
	s.from, s.topSize = p, fileSize(s.part(layer))
	return s.change(func(r *control.Record) error {
		r.Disk = append(p.Disk[:len(p.Disk):len(p.Disk)], layer)
		return nil
	})
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

// bootOrEnd boots, unless somebody wants the sandbox to end meanwhile.
func (s *Supervisor) bootOrEnd(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e := <-s.ends:
				if e.refuse(errComingUp) {
					continue
				}
				cancel(api.Errorf(api.Unavailable, "sandbox %q was stopped while it came up", s.record().Spec.Name))
			case <-ctx.Done():
			}
			return
		}
	}()
	err := s.boot(ctx)
	cancel(nil)
	<-done
	// Also where the boot was done already: a wish to end must not get lost.
	if cause := context.Cause(ctx); cause != context.Canceled {
		if err == nil {
			s.vm.Kill()
		}
		s.gate.move(s.fallback(api.StateStopped), cause.Error())
		return cause
	}
	if err != nil {
		s.gate.move(s.fallback(api.StateError), err.Error())
	}
	return err
}

// fallback is the state of a sandbox that did not come up: one that hibernates
// still does.
func (s *Supervisor) fallback(st api.State) api.State {
	if s.create == nil && s.from != nil {
		return api.StateHibernated
	}
	return st
}

// boot starts the VM, or continues a saved one, and waits until its agent has
// answered and taken its setup.
func (s *Supervisor) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime,
		api.Errorf(api.Timeout, "the guest did not come up in %v", bootTime))
	defer cancel()
	if _, err := os.Stat(s.base()); err != nil {
		return api.Errorf(api.Unavailable, "start sandbox %q: the files of its image %q (%s) are gone: %w",
			s.rec.Spec.Name, s.rec.Spec.Image, s.rec.Image.ID, err).
			WithRecovery("Get that image again, with smolvm image pull or build: the sandbox's own disk is kept.")
	}
	c, err := s.config(ctx)
	if err != nil {
		return err
	}
	var u undo.Stack
	defer u.Run()
	t := time.Now()
	s.vm, err = s.parts.Driver.Start(ctx, c)
	if err != nil {
		return err
	}
	u.Add(s.vm.Kill)
	if v := s.vm.Info().Version; c.Restore != nil && v != s.from.Match.VMM {
		return api.Errorf(api.Unavailable, "its memory was saved by %s, this host has %s", s.from.Match.VMM, v).WithCode("foreign_memory")
	}
	if c.Restore != nil {
		if err := s.vm.Resume(ctx); err != nil {
			return err
		}
	}
	s.timings.VMMMS = ms(t)
	t = time.Now()
	if err := s.connect(ctx); err != nil {
		return api.Errorf(api.ClassOf(err), "boot sandbox %q: %w%s", s.rec.Spec.Name, err, lastWords(s.vm))
	}
	s.timings.GuestMS = ms(t)
	t = time.Now()
	if err := s.setUp(ctx); err != nil {
		return api.Errorf(api.ClassOf(err), "set up sandbox %q: %w%s", s.rec.Spec.Name, err, lastWords(s.vm))
	}
	s.timings.SetupMS = ms(t)
	u.Success()
	return nil
}

// connect makes the session with the VM's agent.
func (s *Supervisor) connect(ctx context.Context) error {
	session, err := reach(ctx, s.vm)
	if err != nil {
		return err
	}
	s.setSession(session)
	return nil
}

// reach dials a machine's guest and greets the agent, until the machine ends.
func reach(ctx context.Context, vm vmm.Machine) (*guest.Session, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-vm.Done():
			cancel(ended(vm))
		case <-ctx.Done():
		}
	}()
	session, err := greet(ctx, vm)
	if err == nil {
		return session, nil
	}
	select {
	case <-vm.Done(): // the channel's end was that of the machine, which knows why
		return nil, ended(vm)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(endTime):
		return nil, err
	}
}

// endTime is how long after its channel a machine that ends may be known to have
// ended: its process has to be reaped.
const endTime = time.Second

func greet(ctx context.Context, vm vmm.Machine) (*guest.Session, error) {
	conn, err := vm.Dial(ctx)
	if err != nil {
		return nil, err
	}
	session, err := guest.Connect(ctx, conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return session, nil
}

func ended(vm vmm.Machine) error {
	if err := vm.Err(); err != nil {
		return err
	}
	return api.Errorf(api.Unavailable, "the guest powered off")
}

// setUp gives the guest its identity, the clock and fresh randomness.
func (s *Supervisor) setUp(ctx context.Context) error {
	id := identity(s.rec.Spec.Name)
	id.Resumed = s.from != nil && s.from.Full()
	id.Copy = s.from != nil && s.create != nil
	if id.Resumed && !id.Copy {
		id.MachineID = "" // it is itself, later
	}
	r, err := guest.Client{Opener: s.session()}.Identify(ctx, id)
	if err != nil {
		return err
	}
	for _, f := range r.Failed {
		slog.Warn("give the guest its identity", "failed", f)
	}
	s.timings.Boot = bootSteps(append(r.Info.BootMS, r.StepsUS...))
	return nil
}

// identity is what makes a guest different from all others.
func identity(hostname string) guest.Setup {
	seed, machine := make([]byte, 64), make([]byte, 16)
	rand.Read(seed)
	rand.Read(machine)
	return guest.Setup{
		Hostname: hostname, TimeNS: time.Now().UnixNano(),
		Seed: seed, MachineID: hex.EncodeToString(machine),
	}
}

// bootSteps bounds what a guest says about its boot, which is kept and shown.
func bootSteps(steps []string) []string {
	const most, longest = 32, 64
	var out []string
	for _, s := range steps[:min(len(steps), most)] {
		s = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return -1
		}, s[:min(len(s), longest)])
		out = append(out, s)
	}
	return out
}

// running publishes that the sandbox runs.
func (s *Supervisor) running() error {
	info := s.vm.Info()
	_, err := s.gate.update(func(st *control.Status) error {
		st.State, st.Reason, st.Lived = api.StateRunning, "", true
		st.Started = info.Started.UTC().Round(time.Millisecond)
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

// lastWords formats the VM's last words for the end of an error message.
// What a guest wrote must not steer the terminal that shows it.
func lastWords(vm vmm.Machine) string {
	w := strings.TrimSpace(vm.LastWords())
	if w == "" {
		return ""
	}
	w = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, w)
	return fmt.Sprintf("\nlast words of the machine:\n%s", w)
}
