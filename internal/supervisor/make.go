package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// make prepares a new sandbox's directory in tmp/ and publishes it.
func (s *Supervisor) make(ctx context.Context, b *birth) error {
	spec := s.create.Spec.WithDefaults()
	if err := spec.Check(); err != nil {
		return err
	}
	if err := settle(&spec.Network); err != nil {
		return err
	}
	if err := s.nameFree(spec.Name); err != nil {
		return err
	}
	if err := s.checkHost(ctx, spec); err != nil {
		return err
	}
	s.timings.PauseMS = s.create.PauseMS
	s.rec = control.Record{ID: newID(), MachineID: newMachineID(), Spec: spec, Created: time.Now().UTC().Round(time.Millisecond)}
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
	if err := s.originate(ctx, tmp.Parts(), b); err != nil {
		return err
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

// nameFree refuses a name that is taken, before the work.
func (s *Supervisor) nameFree(name string) error {
	if name == "" {
		return nil
	}
	return s.parts.Store.NameFree(name)
}

// originate finds what the sandbox is made of, and links it into parts: a snapshot
// or a fork, a template, or nothing beside the image.
func (s *Supervisor) originate(ctx context.Context, parts string, b *birth) error {
	spec := &s.rec.Spec
	if dir, origin := s.savedOrigin(); dir != "" {
		p, err := point.Open(s.key, dir.Manifest(), dir.Parts())
		if spec.FromSnapshot != "" && api.ClassOf(err) == api.NotFound {
			return point.NoSnapshot(spec.FromSnapshot)
		}
		if err != nil {
			return err
		}
		s.from, s.rec.Image, s.rec.Origin = p, p.Image, origin
		spec.Image, spec.CPUs, spec.MemoryMiB, spec.DiskMiB = p.Ref, p.Match.CPUs, p.Match.MemoryMiB, p.Match.DiskMiB
		if err := spec.Check(); err != nil {
			return err
		}
		if spec.NoTemplate { // its disk alone
			p.Devices, p.Memory = "", nil
		}
		if p.Full() {
			if err := s.checkMatch(p, *spec); err != nil {
				return api.AsError(err).WithRecovery("Boot its disk alone, where that is enough, with --no-template.")
			}
		}
		return p.LinkTo(parts)
	}
	var err error
	if s.rec.Image, err = s.parts.Provider.Image(ctx, spec.Image, b.progress); err != nil {
		return err
	}
	s.rec.Origin = "boot"
	if _, ok := s.parts.Driver.(vmm.Restorer); !ok || spec.NoTemplate {
		return nil
	}
	s.rec.Origin = originTemplate
	s.from, err = s.template(ctx, b, func(p *point.Point) error { return p.LinkTo(parts) })
	return err
}

// savedOrigin is the directory of what the caller said to continue, if it did.
func (s *Supervisor) savedOrigin() (store.PointDir, string) {
	if filepath.IsLocal(s.create.Point) {
		return store.PointDir(filepath.Join(s.parts.Store.Root(), s.create.Point)), s.create.Origin
	}
	if name := s.rec.Spec.FromSnapshot; name != "" {
		return s.parts.Store.Snapshot(name), "snapshot " + name
	}
	return "", ""
}

func (s *Supervisor) template(ctx context.Context, b *birth, use func(*point.Point) error) (*point.Point, error) {
	match, err := s.matchOf(s.rec.Spec, "")
	if err != nil {
		return nil, err
	}
	budget := int64(s.create.TemplateBudgetMiB)
	if budget == 0 {
		budget = api.DefaultTemplateBudgetMiB
	}
	t := templates{parts: s.parts, key: s.key, budget: budget << 20, tell: b.progress}
	return t.get(ctx, s.rec.Spec, s.rec.Image, match, use)
}

// makeDisk makes the writable disk: a new layer over what the sandbox continues,
// or a new file system.
func (s *Supervisor) makeDisk(ctx context.Context, parts string) error {
	if s.from == nil {
		s.rec.Disk = []string{point.NewPart(partRaw)}
		return s.parts.Provider.Disk(ctx, filepath.Join(parts, s.rec.Disk[0]), s.rec.Spec.DiskMiB)
	}
	s.copied = true
	layer, err := s.newLayer(parts)
	if err != nil {
		return err
	}
	s.rec.Disk = over(s.from.Disk, layer)
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
