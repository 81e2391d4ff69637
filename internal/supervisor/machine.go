package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guestmem"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Kinds of parts, with which their names begin.
const (
	partRaw     = "raw"     // the lowest file of a disk
	partLayer   = "layer"   // a qcow2 file above it
	partBase    = "base"    // guest memory as a machine begins with it
	partDelta   = "delta"   // pages that differ from what is below
	partDevices = "devices" // the state of a machine's devices
)

// memory is what guest memory is made of: the parts below, and what was seen in
// it when it was last captured.
type memory struct {
	base   string
	deltas []string
	seen   *guestmem.Seen // nil: nothing is known of single pages
}

func (m memory) parts() []string { return append([]string{m.base}, m.deltas...) }

// part returns the path of one of the sandbox's parts.
func (s *Supervisor) part(name string) string { return filepath.Join(s.dir.Parts(), name) }

// newLayer makes an empty layer of the disk in parts and returns its name.
func (s *Supervisor) newLayer(parts string) (string, error) {
	layer := point.NewPart(partLayer)
	path := filepath.Join(parts, layer)
	if err := s.parts.Provider.Overlay(path, s.record().Spec.DiskMiB); err != nil {
		return "", err
	}
	s.emptySize = fileSize(path) // the same for all layers of one disk
	return layer, nil
}

// over is a chain of a disk's parts with a layer on top; chain stays as it is.
func over(chain []string, layer string) []string { return append(slices.Clip(chain), layer) }

// base is the path of the image's file system.
func (s *Supervisor) base() string {
	return filepath.Join(s.parts.Store.Root(), s.record().Image.RootFS)
}

// shape is a machine of the sandbox's sizes without disks and memory.
func shape(spec api.Spec, dir string) vmm.Config {
	name := spec.Name
	if name == "" {
		name = "smolvm"
	}
	return vmm.Config{Name: name, Dir: dir, CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, Accel: spec.Accel, Network: card()}
}

// disks are the guest's disks: the image, and a writable one made of parts in dir.
func disks(base, dir string, chain []string) []vmm.Disk {
	top := len(chain) - 1
	rw := vmm.Disk{Path: filepath.Join(dir, chain[top]), Format: format(chain[top])}
	for i := top - 1; i >= 0; i-- {
		rw.Backing = append(rw.Backing, vmm.Layer{Path: filepath.Join(dir, chain[i]), Format: format(chain[i])})
	}
	return []vmm.Disk{{Path: base, Format: vmm.Raw, ReadOnly: true}, rw}
}

// writable is the index of the writable disk in disks.
const writable = 1

func format(part string) vmm.DiskFormat {
	if strings.HasPrefix(part, partRaw+"-") {
		return vmm.Raw
	}
	return vmm.Qcow2
}

// config is the sandbox's machine as it boots, or as it continues s.from.
func (s *Supervisor) config(ctx context.Context) (vmm.Config, error) {
	rec := s.record()
	c := shape(rec.Spec, s.dir.VM())
	c.Disks = disks(s.base(), s.dir.Parts(), rec.Disk)
	if s.from != nil && s.from.Full() {
		s.mem = memory{base: s.from.Memory[0], deltas: s.from.Memory[1:]}
		c.Memory = &vmm.Memory{Path: s.part(s.mem.base)}
		c.Restore = &vmm.Restore{Devices: s.part(s.from.Devices), Fill: s.fill}
		return c, nil
	}
	var err error
	if c.Kernel, c.Initrd, err = s.parts.Provider.Kernel(ctx); err != nil {
		return c, err
	}
	if _, ok := s.parts.Driver.(vmm.Restorer); !ok {
		return c, nil
	}
	// Memory over an empty file, so that this sandbox can be saved as any other.
	s.mem = memory{base: point.NewPart(partBase)}
	c.Memory = &vmm.Memory{Path: s.part(s.mem.base)}
	return c, guestmem.BaseFile(c.Memory.Path, c.MemoryMiB)
}

// fill brings a restored machine's memory from the base to what was saved.
func (s *Supervisor) fill(r vmm.Region) error {
	files := make([]string, len(s.mem.deltas))
	for i, d := range s.mem.deltas {
		files[i] = s.part(d)
	}
	var err error
	s.mem.seen, err = guestmem.Apply(r, files, s.record().Spec.Checkpoint != api.CheckpointNever)
	return err
}

// match says what the sandbox's saved memory will depend on.
func (s *Supervisor) match() (point.Match, error) {
	return s.matchOf(s.record().Spec, s.vm.Info().Version)
}

func (s *Supervisor) matchOf(spec api.Spec, version string) (point.Match, error) {
	d, ok := s.parts.Driver.(vmm.Restorer)
	if !ok {
		return point.Match{}, errCannotSave
	}
	c := shape(spec, "")
	c.Disks = disks("", "", []string{partRaw + "-"})
	print, err := d.Fingerprint(c)
	return point.Match{
		Format: pointFormat, Driver: print, VMM: version,
		CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, DiskMiB: spec.DiskMiB,
	}, err
}

// pointFormat changes when the meaning of saved machines does: what the agent
// expects of its host after a resume, say.
const pointFormat = 2

var errCannotSave = api.Errorf(api.Unavailable, "this VMM cannot save machines")

// checkMatch refuses to continue a memory that was saved by another kind of machine.
func (s *Supervisor) checkMatch(p *point.Point, spec api.Spec) error {
	now, err := s.matchOf(spec, p.Match.VMM) // the version is checked when the VMM has told it
	if err != nil {
		return err
	}
	if now == p.Match {
		return nil
	}
	return api.Errorf(api.Unavailable, "its memory was saved by another VMM or on another kind of host").
		WithCode("foreign_memory").WithRecovery("Start from its disk alone, where that is enough.")
}

// sweepParts removes the parts that nothing of the sandbox needs any more: what a
// rewind, a wake or a death left. The VM must be down or just come up.
func (s *Supervisor) sweepParts() {
	keep := map[string]bool{}
	note := func(names ...string) {
		for _, n := range names {
			keep[n] = true
		}
	}
	note(s.record().Disk...)
	note(s.mem.parts()...)
	for _, path := range append(s.dir.Steps(), s.dir.Hibernated()) {
		m, err := point.Read(s.key, path)
		if api.ClassOf(err) == api.NotFound {
			continue
		}
		if err != nil {
			return // what cannot be read may need anything
		}
		note(m.Memory...)
		note(m.Disk...)
		note(m.Devices)
	}
	entries, _ := os.ReadDir(s.dir.Parts())
	for _, e := range entries {
		if !keep[e.Name()] {
			os.Remove(s.part(e.Name()))
		}
	}
}

// manifestOf begins the manifest of a sandbox.
func manifestOf(rec control.Record) point.Manifest {
	return point.Manifest{Image: rec.Image, Ref: rec.Spec.Image, Source: rec.ID}
}
