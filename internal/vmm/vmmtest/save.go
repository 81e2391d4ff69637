package vmmtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// saved is the Config of machines that continue one on disk, but for a directory
// and an upper layer of their own.
type saved struct{ vmm.Config }

// saving tries all that is about saved machines, with one boot.
func saving(t *testing.T, h Harness) {
	if _, ok := h.Driver.(vmm.Restorer); !ok {
		return // it need not be one
	}
	r := look(t)
	first := h.bootAndSave(t)
	files := sums(t, first, first.Memory.Path)
	t.Run("continues, many at once", func(t *testing.T) { h.continues(t, first) })
	t.Run("has a network card", func(t *testing.T) { h.continuedCard(t, first) })
	t.Run("saved again", func(t *testing.T) { h.savedAgain(t, first) })
	t.Run("bad states", func(t *testing.T) { h.badStates(t, first) })
	t.Run("bad restores", func(t *testing.T) { h.badRestores(t, first) })
	t.Run("fill that fails", func(t *testing.T) { h.fillFails(t, first) })
	files.same(t)
	r.sameProcess(t, first.Config)
}

// bootAndSave boots a machine over a file of memory, lets its guest do something
// and saves it.
func (h Harness) bootAndSave(t *testing.T) saved {
	t.Helper()
	r := look(t)
	c := h.Config(t)
	dir := t.TempDir()
	plug(t, &c).Close()
	c.Memory = &vmm.Memory{Path: filepath.Join(dir, "memory,1"), Shared: true}
	sparse(t, c.Memory.Path, int64(c.MemoryMiB)<<20)
	m := h.startSaver(t, c)
	k := h.dial(t, m)
	k.expect("!count", "1")
	k.expect("!mark before", "!mark before")
	k.expect("!write vdb 1 first", "written")
	devices := filepath.Join(dir, "devices,1")
	mustConflict(t, "save while it runs", m.SaveDevices(h.context(t), devices))
	mustConflict(t, "layer while it runs", m.Layer(h.context(t), 1, devices))
	must(t, m.Pause(h.context(t)))
	must(t, m.SaveDevices(h.context(t), devices))
	if err := m.SaveDevices(h.context(t), devices); err == nil {
		t.Error("a file that was there was overwritten")
	}
	m.Kill()
	k.Close()
	r.same(t, c)
	s := saved{c}
	s.Kernel, s.Initrd, s.Args = "", "", ""
	s.Memory = &vmm.Memory{Path: c.Memory.Path}
	s.Restore = &vmm.Restore{Devices: devices}
	return s
}

// clone is the Config of one machine that continues s.
func (h Harness) clone(t *testing.T, s saved) vmm.Config {
	t.Helper()
	c := s.Config
	c.Name, c.Dir = "vmmtest of "+t.TempDir(), t.TempDir()
	plug(t, &c).Close()
	restore := *s.Restore
	c.Restore = &restore
	c.Disks = append([]vmm.Disk(nil), s.Disks...)
	c.Disks[1] = h.onTop(t, s.Disks[1])
	return c
}

// onTop is d with an empty layer on top.
func (h Harness) onTop(t *testing.T, d vmm.Disk) vmm.Disk {
	t.Helper()
	top := h.newLayer(t, d)
	below := append([]vmm.Layer{{Path: d.Path, Format: d.Format}}, d.Backing...)
	return vmm.Disk{Path: top, Format: vmm.Qcow2, Backing: below}
}

func (h Harness) newLayer(t *testing.T, d vmm.Disk) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer,1")
	h.Overlay(t, path, diskSize(t, d))
	return path
}

// diskSize is the size of the raw file at the bottom.
func diskSize(t *testing.T, d vmm.Disk) int64 {
	t.Helper()
	path := d.Path
	for _, l := range d.Backing {
		path = l.Path
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func (h Harness) startSaver(t *testing.T, c vmm.Config) vmm.Saver {
	t.Helper()
	m, ok := h.start(t, c).(vmm.Saver)
	if !ok {
		t.Fatal("the driver is a Restorer, its machine is no Saver")
	}
	return m
}

// awake starts a machine that continues a saved one and lets it go on. What is
// said on its channel must be heard from the first byte on.
func (h Harness) awake(t *testing.T, c vmm.Config) (vmm.Saver, *talk) {
	t.Helper()
	m := h.startSaver(t, c)
	mustConflict(t, "dial before it goes on", dialError(h.context(t), m))
	must(t, m.Resume(h.context(t)))
	k := h.dial(t, m)
	k.ask("hello")
	return m, k
}

// continues lets three machines continue one, two of them at once.
func (h Harness) continues(t *testing.T, s saved) {
	r := look(t)
	a, b, c := h.clone(t, s), h.clone(t, s), h.clone(t, s)
	am, ak := h.awake(t, a)
	bm, bk := h.awake(t, b)
	for name, k := range map[string]*talk{"a": ak, "b": bk} {
		k.expect("!count", "2")
		k.expect("!marked", "before")
		k.expect("!read vdb 1", "first")
		k.expect("!read vdb 2", "-")
		k.expect("!write vdb 2 of-"+name, "written")
		k.expect("!mark of-"+name, "!mark of-"+name)
	}
	for name, k := range map[string]*talk{"a": ak, "b": bk} {
		k.expect("!read vdb 2", "of-"+name)
		k.expect("!marked", "of-"+name)
		k.Close()
	}
	am.Kill()
	bm.Kill()
	cm, ck := h.awake(t, c)
	ck.expect("!count", "2")
	ck.expect("!read vdb 2", "-")
	ck.Close()
	cm.Kill()
	r.same(t, a)
	r.same(t, b)
	r.same(t, c)
}

// savedAgain saves a machine that itself continued one, while it goes on.
func (h Harness) savedAgain(t *testing.T, s saved) {
	r := look(t)
	a := h.clone(t, s)
	m, k := h.awake(t, a)
	k.expect("!count", "2")
	k.expect("!write vdb 2 second", "written")
	k.expect("!mark own", "!mark own")
	must(t, m.Pause(h.context(t)))
	h.badLayers(t, m, a)
	again := saved{a}
	again.Restore = &vmm.Restore{Devices: filepath.Join(t.TempDir(), "devices")}
	must(t, m.SaveDevices(h.context(t), again.Restore.Devices))
	pages := privatePages(t, m, s.Memory.Path)
	layer := h.newLayer(t, a.Disks[1])
	must(t, m.Layer(h.context(t), 1, layer))
	files := sums(t, again)
	must(t, m.Resume(h.context(t)))
	k.expect("!read vdb 2", "second")
	k.expect("!write vdb 3 third", "written")
	k.expect("!write vdb 2 changed", "written")
	k.expect("!mark later", "!mark later")

	if pages.replace(mark+"own\n", mark+"new\n") != 1 {
		t.Error("the marked page is not among the private ones")
	}
	again.Restore.Fill = pages.fill
	b := h.clone(t, again)
	bm, bk := h.awake(t, b)
	bk.expect("!count", "3")
	bk.expect("!marked", "new")
	bk.expect("!read vdb 1", "first")
	bk.expect("!read vdb 2", "second")
	bk.expect("!read vdb 3", "-")
	k.expect("!count", "3")
	k.expect("!marked", "later")
	k.expect("!read vdb 2", "changed")
	files.same(t)
	bk.Close()
	bm.Kill()
	k.Close()
	m.Kill()
	r.same(t, b)
	h.layerHolds(t, a, layer)
	r.same(t, a)
}

// layerHolds looks at a disk as it was left by one who wrote to a layer.
func (h Harness) layerHolds(t *testing.T, c vmm.Config, layer string) {
	plug(t, &c).Close()
	c.Restore = &vmm.Restore{Devices: c.Restore.Devices}
	d := c.Disks[1]
	d.Backing = append([]vmm.Layer{{Path: d.Path, Format: d.Format}}, d.Backing...)
	d.Path, d.Format = layer, vmm.Qcow2
	c.Disks = append([]vmm.Disk(nil), c.Disks...)
	c.Disks[1] = d
	m, k := h.awake(t, c)
	k.expect("!read vdb 1", "first")
	k.expect("!read vdb 2", "changed")
	k.expect("!read vdb 3", "third")
	k.Close()
	m.Kill()
}

// badLayers are layers that must be refused and change nothing.
func (h Harness) badLayers(t *testing.T, m vmm.Saver, c vmm.Config) {
	t.Helper()
	good, gone := h.newLayer(t, c.Disks[1]), filepath.Join(t.TempDir(), "gone")
	for name, l := range map[string]struct {
		disk int
		path string
	}{
		"disk that is read-only": {0, good},
		"disk that is not there": {7, good},
		"negative disk":          {-1, good},
		"layer that is missing":  {1, gone},
	} {
		if err := m.Layer(h.context(t), l.disk, l.path); err == nil || api.ClassOf(err) != api.Invalid {
			t.Errorf("%s: class %s, %v", name, api.ClassOf(err), err)
		}
	}
}
