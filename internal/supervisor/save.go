package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guestmem"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
)

// saving says how to save the sandbox.
type saving struct {
	parts    string // directory for the new parts
	diskOnly bool
	sync     bool // have the guest write its file systems out first: the disk is to be of use alone
	goOn     bool // the next save may build on this one: its parts are the sandbox's own
	still    bool // leave the VM paused: it ends
}

// stillTime bounds how long a machine stands still for its devices and disks to be
// saved; its memory takes what it takes.
const stillTime = time.Minute

// save saves the running or paused sandbox and returns what it was as a manifest
// that is not written yet. The VM stands still while its memory is copied, and only
// then. After an error the sandbox is as before.
func (s *Supervisor) save(ctx context.Context, o saving) (_ *point.Manifest, err error) {
	s.still.Lock()
	defer s.still.Unlock()
	vm, ok := s.vm.(vmm.Saver)
	if !ok {
		return nil, errCannotSave
	}
	c := capture{s: s, vm: vm, o: o, devices: point.NewPart(partDevices), delta: point.NewPart(partDelta)}
	c.running = s.gate.get().State == api.StateRunning
	if err := c.prepare(); err != nil {
		return nil, err
	}
	defer c.free()
	if c.running {
		if err := s.quiesce(ctx, o); err != nil {
			return nil, err
		}
	}
	m, err := c.save(ctx)
	if err != nil {
		os.Remove(filepath.Join(o.parts, c.devices))
		return nil, err
	}
	return m, nil
}

// quiesce stops the guest's processes, so that none runs on in a copy before the
// copy has an identity of its own, until goOn.
func (s *Supervisor) quiesce(ctx context.Context, o saving) error {
	err := guest.Client{Opener: s.session()}.Quiesce(ctx, guest.Quiesce{Freeze: !o.diskOnly, Sync: o.sync})
	if err != nil {
		return errors.Join(api.Errorf(api.ClassOf(err), "prepare the guest to be saved: %w", err), s.goOn(ctx, o))
	}
	return nil
}

// goOn lets the machine and its processes, that stand still to be saved, run again.
func (s *Supervisor) goOn(ctx context.Context, o saving) error {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	if err := s.vm.Resume(ctx); err != nil {
		return err
	}
	if err := (guest.Client{Opener: s.session()}).Thaw(ctx, time.Now()); err != nil {
		slog.Warn("thaw the guest's processes", "err", err)
	}
	return nil
}

// capture is one save under way.
type capture struct {
	s       *Supervisor
	vm      vmm.Saver
	o       saving
	running bool // before and, but for saving.still, after

	devices, delta string
	region         vmm.Region
	buffer         *guestmem.Buffer
	pages          *guestmem.Delta
	seen           *guestmem.Seen
	disk           []string
}

// prepare does what needs no standing still.
func (c *capture) prepare() (err error) {
	if c.o.diskOnly {
		return nil
	}
	if c.region, err = c.vm.Region(); err != nil {
		return err
	}
	c.buffer, err = guestmem.Prepare(c.region, c.s.mem.seen)
	return err
}

func (c *capture) free() {
	if c.buffer != nil {
		c.buffer.Close()
	}
}

// save saves the machine, whose processes stand still already.
func (c *capture) save(ctx context.Context) (*point.Manifest, error) {
	t := time.Now()
	err := c.pauseAndTake(ctx)
	if c.running && !c.o.still {
		err = errors.Join(err, c.s.goOn(ctx, c.o))
	}
	pause := time.Since(t)
	var m *point.Manifest
	if err == nil {
		m, err = c.finish()
	}
	if err != nil && c.running && c.o.still {
		err = errors.Join(err, c.s.goOn(ctx, c.o))
	}
	if err == nil && c.running {
		m.PauseMS = float64(pause.Microseconds()) / 1000
	}
	return m, err
}

// pauseAndTake goes on when the caller ends: what a VMM was told it does, and half
// of it would be a machine that writes to a layer which nobody knows.
func (c *capture) pauseAndTake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stillTime)
	defer cancel()
	if c.running {
		if err := c.vm.Pause(ctx); err != nil {
			return err
		}
	}
	return c.take(ctx)
}

// take copies what the paused machine is.
func (c *capture) take(ctx context.Context) error {
	if !c.o.diskOnly {
		if err := c.vm.SaveDevices(ctx, filepath.Join(c.o.parts, c.devices)); err != nil {
			return err
		}
		var err error
		c.pages, c.seen, err = guestmem.Capture(c.region, guestmem.Options{
			Buffer: c.buffer, Since: c.s.mem.seen, WantSeen: c.o.goOn, Spill: filepath.Join(c.o.parts, c.delta),
		})
		if err != nil {
			return err
		}
	}
	disk, err := c.s.freezeDisk(ctx, c.vm)
	c.disk = disk
	return err
}

// finish writes what was copied.
func (c *capture) finish() (*point.Manifest, error) {
	s := c.s
	m := manifestOf(s.record())
	m.Created = time.Now().UTC().Round(time.Millisecond)
	m.Disk = c.disk
	var err error
	if m.Match, err = s.match(); err != nil {
		return nil, err
	}
	m.Accel = s.vm.Info().Accel
	if !c.o.diskOnly {
		m.Names = s.wiring.told()
		if err := c.pages.WriteFile(filepath.Join(c.o.parts, c.delta)); err != nil {
			return nil, err
		}
		m.Devices = c.devices
		deltas := s.mem.deltas
		if s.mem.seen == nil {
			deltas = nil // the new one holds all that differs from the base
		}
		mem := memory{base: s.mem.base, deltas: append(slices.Clip(deltas), c.delta), seen: c.seen}
		m.Memory = mem.parts()
		if c.o.goOn {
			s.mem = mem
		}
	}
	return &m, s.lend(&m, c.o.parts)
}

// lend gives another directory links to the parts of m that are the sandbox's own.
func (s *Supervisor) lend(m *point.Manifest, parts string) error {
	if parts == s.dir.Parts() {
		return nil
	}
	for _, name := range append(m.Disk, m.Memory...) {
		err := os.Link(s.part(name), filepath.Join(parts, name))
		if err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// freezeDisk makes the paused machine write to a new layer from now on, unless it
// has written nothing since it did so last, and returns the parts that hold the
// disk as it is now.
func (s *Supervisor) freezeDisk(ctx context.Context, vm vmm.Saver) ([]string, error) {
	rec := s.record()
	top := len(rec.Disk) - 1
	if s.pristine(rec.Disk[top]) {
		return rec.Disk[:top:top], nil
	}
	if top+1 >= maxLayers {
		return nil, api.Errorf(api.Exhausted, "save sandbox %q: its disk has %d layers, which is the most", rec.Spec.Name, top+1).
			WithRecovery("Copy what it holds into a new sandbox.")
	}
	layer, err := s.newLayer(s.dir.Parts())
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	u.Add(func() { os.Remove(s.part(layer)) })
	// The record first: a layer that it does not know would be lost work, one that
	// is empty does no harm.
	if err := s.change(func(r *control.Record) error { r.Disk = over(rec.Disk, layer); return nil }); err != nil {
		return nil, err
	}
	u.Add(func() {
		s.change(func(r *control.Record) error { r.Disk = rec.Disk; return nil })
	})
	if err := vm.Layer(ctx, writable, s.part(layer)); err != nil {
		if ctx.Err() != nil { // the VMM may write to it by now, or not
			s.emptySize = 0
			u.Success()
		}
		return nil, err
	}
	u.Success()
	return rec.Disk, nil
}

// maxLayers bounds the files of a disk. QEMU 7.2 takes 0.5 s to open 100 of them, 4 s
// for 200 and half a minute for 300.
const maxLayers = 100

// pristine reports whether nothing was written to the top layer yet: each write to
// a new place makes a qcow2 file longer.
func (s *Supervisor) pristine(top string) bool {
	return len(s.record().Disk) > 1 && format(top) == vmm.Qcow2 && s.emptySize > 0 && fileSize(s.part(top)) == s.emptySize
}

func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// point serves RoutePoint: it saves the sandbox, or one of its steps, into a
// directory that the caller has made and will publish or remove.
func (s *Supervisor) point(ctx context.Context, p control.Point) (control.Pointed, error) {
	dir, err := s.ownTmp(p.Dir)
	if err != nil {
		return control.Pointed{}, err
	}
	if p.Step != nil {
		return control.Pointed{}, s.pointStep(dir, *p.Step)
	}
	var m *point.Manifest
	err = s.ifUp(func() (err error) {
		m, err = s.save(ctx, saving{parts: dir.Parts(), diskOnly: p.DiskOnly, sync: !p.Brief})
		return err
	})
	if err != nil {
		return control.Pointed{}, err
	}
	care := point.Durable
	if p.Brief {
		care = point.Brief
	}
	return control.Pointed{PauseMS: m.PauseMS}, point.Write(s.key, dir.Manifest(), dir.Parts(), m, care)
}

// ownTmp checks that a directory is one in tmp/, where nothing of value is.
func (s *Supervisor) ownTmp(rel string) (store.PointDir, error) {
	path := filepath.Join(s.parts.Store.Root(), rel)
	if in, err := filepath.Rel(s.parts.Store.Tmp(), path); err != nil || !filepath.IsLocal(in) {
		return "", api.Errorf(api.Invalid, "save sandbox into %q: that is not in tmp/", rel)
	}
	return store.PointDir(path), nil
}

// hibernateTime bounds writing memory out: 100 GiB at 200 MB/s.
const hibernateTime = 10 * time.Minute

// hibernate saves the sandbox to disk. On success the VM is paused and has to be
// ended; after an error the sandbox goes on.
func (s *Supervisor) hibernate() (err error) {
	s.idle.bar() // what came now would be in the memory that is saved, and its client told that it failed
	defer func() {
		if err != nil {
			s.idle.allow()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), hibernateTime)
	defer cancel()
	m, err := s.save(ctx, saving{parts: s.dir.Parts(), sync: true, still: true})
	if err == nil {
		err = point.Write(s.key, s.dir.Hibernated(), s.dir.Parts(), m, point.Durable)
		if err != nil {
			// It may be there without being durable, and would be continued in place of
			// what the sandbox does from now on.
			os.Remove(s.dir.Hibernated())
			if s.gate.get().State == api.StateRunning {
				err = errors.Join(err, s.goOn(ctx, saving{}))
			}
		}
	}
	if err != nil {
		return api.Errorf(api.ClassOf(err), "hibernate sandbox %q: %w", s.record().Spec.Name, err)
	}
	return nil
}

// pointStopped is the errand of a client that wants a sandbox without a VM saved:
// its disk, or what it hibernated as, or a step.
func (s *Supervisor) pointStopped(p control.Point) error {
	if _, err := os.Stat(s.dir.Spec()); err != nil {
		return api.Errorf(api.NotFound, "save sandbox %s: there is none", s.dir.ID())
	}
	if err := s.hold(s.dir); err != nil {
		return err
	}
	defer s.release()
	if err := store.ReadJSON(s.dir.Spec(), &s.rec); err != nil {
		return err
	}
	dir, err := s.ownTmp(p.Dir)
	if err != nil {
		return err
	}
	if p.Step != nil {
		return s.pointStep(dir, *p.Step)
	}
	if !p.DiskOnly {
		asleep, err := point.Open(s.key, s.dir.Hibernated(), s.dir.Parts())
		if err == nil {
			return s.copyPoint(asleep, dir)
		}
		if api.ClassOf(err) != api.NotFound {
			return err
		}
		return api.Errorf(api.Conflict, "save sandbox %q: it does not run, and so has no memory", s.rec.Spec.Name).
			WithCode("not_running").WithRecovery("Start it first. A snapshot of its disk alone is made with --disk-only.")
	}
	return s.pointDisk(dir)
}

// copyPoint makes a point of the parts of another.
func (s *Supervisor) copyPoint(p *point.Point, dir store.PointDir) error {
	if err := p.LinkTo(dir.Parts()); err != nil {
		return err
	}
	m := p.Manifest
	m.Step = nil
	return point.Write(s.key, dir.Manifest(), dir.Parts(), &m, point.Durable)
}

// pointDisk saves the disk of a sandbox without a VM. Its layers are shared from
// then on, so a new one takes what the sandbox writes later.
func (s *Supervisor) pointDisk(dir store.PointDir) error {
	m := manifestOf(s.rec)
	m.Created = time.Now().UTC().Round(time.Millisecond)
	m.Disk = s.rec.Disk
	m.Match = point.Match{Format: pointFormat, CPUs: s.rec.Spec.CPUs, MemoryMiB: s.rec.Spec.MemoryMiB, DiskMiB: s.rec.Spec.DiskMiB}
	if err := s.coverDisk(&m); err != nil {
		return err
	}
	if err := s.lend(&m, dir.Parts()); err != nil {
		return err
	}
	return point.Write(s.key, dir.Manifest(), dir.Parts(), &m, point.Durable)
}

// coverDisk puts a new layer on the disk of a sandbox without a VM, unless nothing was
// written to the one that it has.
func (s *Supervisor) coverDisk(m *point.Manifest) error {
	layer, err := s.newLayer(s.dir.Parts())
	if err != nil {
		return err
	}
	top := len(m.Disk) - 1
	if s.pristine(m.Disk[top]) {
		m.Disk = m.Disk[:top:top]
		return os.Remove(s.part(layer))
	}
	err = s.change(func(r *control.Record) error { r.Disk = over(m.Disk, layer); return nil })
	if err != nil {
		os.Remove(s.part(layer))
	}
	return err
}
