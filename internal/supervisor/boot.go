package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
)

// bootTime bounds a boot, from the VMM's start to the agent's answer. Under
// emulation it takes 3 s on quiet cores; 100 sandboxes booting on two cores
// take their turns.
const bootTime = 3 * time.Minute

// bootOrEnd boots, unless somebody wants the sandbox to end meanwhile.
func (s *Supervisor) bootOrEnd(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stopped error // by a wish to end; read after done
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e := <-s.ends:
				if e.refuse(errComingUp) {
					continue
				}
				stopped = api.Errorf(api.Unavailable, "sandbox %q was stopped while it came up", s.record().Spec.Name)
				cancel(stopped)
			case <-ctx.Done():
			}
			return
		}
	}()
	err := s.boot(ctx)
	cancel(nil)
	<-done
	// Also where the boot was done already: a wish to end that was taken must not get
	// lost, and nobody else would answer it.
	cause := stopped
	if cause == nil && context.Cause(ctx) != context.Canceled {
		cause = context.Cause(ctx)
	}
	if cause != nil {
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
	if _, err := os.Stat(s.base()); err != nil && s.create != nil {
		return api.Errorf(api.Unavailable, "create sandbox: its image %q (%s) is not here: %w", s.rec.Spec.Image, s.rec.Image.ID, err).
			WithRecovery("Get the very same image: with smolvm image pull or build, or smolvm image save where it is and smolvm image load here.")
	} else if err != nil {
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
	if c.Network, err = s.wiring.plug(); err != nil {
		return err
	}
	s.wiring.recall(s.from, s.rec.NetworkUsed)
	u.Add(s.wiring.unplug)
	if err := s.openFolders(); err != nil {
		return err
	}
	u.Add(s.folders.close)
	t := time.Now()
	vm, err := s.startMachine(ctx, c)
	if err != nil {
		return err // of a rewind: s.vm is still the one that it has ended
	}
	s.vm = vm
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
	s.trustAuthority(ctx) // before the processes of a restored guest run on
	if err := s.setUp(ctx); err != nil {
		return api.Errorf(api.ClassOf(err), "set up sandbox %q: %w%s", s.rec.Spec.Name, err, lastWords(s.vm))
	}
	if err := s.mountFolders(ctx); err != nil {
		return err
	}
	s.timings.SetupMS = ms(t)
	u.Success()
	return nil
}

// startMachine starts the VM and what serves its network card.
func (s *Supervisor) startMachine(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	defer c.Network.Wire.Close()
	served := make(chan error, 1)
	go func() { // while the VM loads its state, which takes longer
		if s.member != nil {
			served <- nil // whose policy holds is known when it is taken
			return
		}
		served <- s.serveNetwork(s.record().Spec.Network)
	}()
	vm, err := s.parts.Driver.Start(ctx, c)
	if serr := <-served; err == nil && serr != nil {
		vm.Kill()
		err = serr
	}
	return vm, err
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
	id.MachineID = s.rec.MachineID
	id.Resumed = s.from != nil && s.from.Full()
	id.Copy = s.copied
	id.Network = guestNetwork(s.rec.Spec.Network)
	s.copied = false // what comes later is the same sandbox
	if id.Resumed && !id.Copy {
		id.MachineID = "" // it has it
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
	seed := make([]byte, 64)
	rand.Read(seed)
	return guest.Setup{Hostname: hostname, TimeNS: time.Now().UnixNano(), Seed: seed, MachineID: newMachineID()}
}

// newMachineID is as machine-id(5) wants it.
func newMachineID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
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
