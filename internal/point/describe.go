package point

import (
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

// Template is what users are told of a template.
func (m *Manifest) Template(dir store.PointDir) api.Template {
	t := api.Template{
		Key: filepath.Base(string(dir)), Image: m.Ref, ImageID: m.Image.ID,
		CPUs: m.Match.CPUs, MemoryMiB: m.Match.MemoryMiB, DiskMiB: m.Match.DiskMiB,
		Accel: m.Accel, VMM: m.Match.VMM, Created: m.Created, Bytes: m.Bytes(),
	}
	if fi, err := os.Stat(string(dir)); err == nil {
		t.Used = fi.ModTime().UTC()
	}
	return t
}

// Snapshot is what users are told of a snapshot.
func (m *Manifest) Snapshot(name string) api.Snapshot {
	s := api.Snapshot{
		Name: name, Kind: api.SnapshotDisk, Source: m.Source, Image: m.Ref, ImageID: m.Image.ID,
		CPUs: m.Match.CPUs, MemoryMiB: m.Match.MemoryMiB, DiskMiB: m.Match.DiskMiB,
		Created: m.Created, Bytes: m.Bytes(), PauseMS: m.PauseMS, Digest: m.Digest(),
	}
	if m.Full() {
		s.Kind, s.Accel, s.VMM = api.SnapshotFull, m.Accel, m.Match.VMM
	}
	return s
}

// NoSnapshot is the error of a name that no snapshot has.
func NoSnapshot(name string) error {
	return api.Errorf(api.NotFound, "find snapshot %.80q: there is none", name).
		WithRecovery("List what there is with: smolvm snapshot ls")
}

// StepBytes is what a step takes that its parent has not; with none, that what the
// sandbox was made of has not.
func (m *Manifest) StepBytes(parent *Manifest) (n int64) {
	before := map[string]Part{m.Memory[0]: {}, m.Disk[0]: {}}
	if parent != nil {
		before = parent.Parts
	}
	for name, p := range m.Parts {
		if _, ok := before[name]; !ok {
			n += p.Bytes
		}
	}
	return n
}
