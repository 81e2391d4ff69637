package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/vmm"
)

// TestVMLayers puts files on a disk that are no layers for it, on a machine whose
// guest has not come far, and then one that is.
func TestVMLayers(t *testing.T) {
	m, err := new(Driver).Start(t.Context(), savable(t))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	layer := func(name string, size int64) string {
		path := filepath.Join(t.TempDir(), name)
		if err := disk.Overlay(path, size); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const size = 2 << 20
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte{0xa5}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what was refused is not in the way of what follows
		for name, path := range map[string]string{
			"shorter": layer("short", size/2), "longer": layer("long", 2*size), "garbage": garbage,
		} {
			if err := m.(vmm.Saver).Layer(t.Context(), 1, path); err == nil || api.ClassOf(err) != api.Invalid {
				t.Errorf("%s: class %s, %v", name, api.ClassOf(err), err)
			}
		}
		// One that claims to lie on a file of this host: QEMU must not open it.
		good := layer("good", size)
		claimBacking(t, good, "/etc/hostname")
		if err := m.(vmm.Saver).Layer(t.Context(), 1, good); err != nil {
			t.Error(err)
		}
	}
}

// claimBacking writes the name of a backing file into a qcow2 header.
func claimBacking(t *testing.T, path, name string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const at = 1024 // in the first cluster, behind the header
	offset := binary.BigEndian.AppendUint64(nil, at)
	for pos, b := range map[int64][]byte{8: offset, 16: binary.BigEndian.AppendUint32(nil, uint32(len(name))), at: []byte(name)} {
		if _, err := f.WriteAt(b, pos); err != nil {
			t.Fatal(err)
		}
	}
}

// savable is the config of a machine that can be saved.
func savable(tb testing.TB) vmm.Config {
	tb.Helper()
	kernel, initrd := guest(tb)
	c := config(tb, kernel, initrd)
	c.Memory = &vmm.Memory{Path: filepath.Join(tb.TempDir(), "memory"), Shared: true}
	if err := os.WriteFile(c.Memory.Path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(c.Memory.Path, int64(c.MemoryMiB)<<20); err != nil {
		tb.Fatal(err)
	}
	return c
}

// TestVMRefusedStates gives QEMU states that it does not take, past our own check.
func TestVMRefusedStates(t *testing.T) {
	c := savable(t)
	m, err := new(Driver).Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	devices := filepath.Join(t.TempDir(), "devices")
	if err := m.(vmm.Saver).SaveDevices(t.Context(), devices); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	all, err := os.ReadFile(devices)
	if err != nil {
		t.Fatal(err)
	}
	c.Memory = &vmm.Memory{Path: c.Memory.Path}
	stream := all[:len(all)-footerSize]
	for name, spoiled := range map[string][]byte{
		"garbage":          bytes.Repeat([]byte{0xa5}, 4096),
		"cut":              stream[:len(stream)/2],
		"cut late":         stream[:len(stream)-1],
		"a device renamed": bytes.Replace(stream, []byte("virtio-blk"), []byte("virtio-bla"), 1),
	} {
		t.Run(name, func(t *testing.T) { mustRefuseStream(t, c, spoiled) })
	}
	t.Run("stuck", func(t *testing.T) { stuck(t, c, all) })
}

func mustRefuseStream(t *testing.T, c vmm.Config, stream []byte) {
	c.Dir = t.TempDir()
	c.Restore = &vmm.Restore{Devices: filepath.Join(t.TempDir(), "devices")}
	if err := os.WriteFile(c.Restore.Devices, stream, 0o600); err != nil {
		t.Fatal(err)
	}
	print, err := new(Driver).Fingerprint(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal(c.Restore.Devices, print); err != nil {
		t.Fatal(err)
	}
	m, err := new(Driver).Start(t.Context(), c)
	if err == nil {
		m.Kill()
		t.Fatal("started")
	}
	mustBeBadState(t, "start", err)
	if !strings.Contains(err.Error(), "qemu") {
		t.Errorf("QEMU's words are missing: %v", err)
	}
	mustBeEmpty(t, c.Dir)
}

// stuck lets a context end while memory is filled.
func stuck(t *testing.T, c vmm.Config, devices []byte) {
	c.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c.Restore = &vmm.Restore{Devices: filepath.Join(t.TempDir(), "devices"), Fill: func(vmm.Region) error {
		cancel()
		return nil
	}}
	if err := os.WriteFile(c.Restore.Devices, devices, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := new(Driver).Start(ctx, c)
	if err == nil {
		m.Kill()
		t.Fatal("started though the context had ended")
	}
	if e := api.AsError(err); e.Class != api.Unavailable || e.Code == vmm.CodeState {
		t.Errorf("class %s, code %q: %v", e.Class, e.Code, err)
	}
	mustBeEmpty(t, c.Dir)
}

// TestVMWithoutMemoryFile asks a machine to be saved that cannot.
func TestVMWithoutMemoryFile(t *testing.T) {
	c := savable(t)
	c.Memory = nil
	vm, err := new(Driver).Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := vm.(vmm.Saver)
	_, regionErr := m.Region()
	for act, err := range map[string]error{"save": m.SaveDevices(t.Context(), filepath.Join(t.TempDir(), "d")), "region": regionErr} {
		if err == nil || api.ClassOf(err) != api.Conflict {
			t.Errorf("%s: class %s, %v", act, api.ClassOf(err), err)
		}
	}
	m.Kill()
	if err := m.SaveDevices(t.Context(), filepath.Join(t.TempDir(), "d")); err == nil {
		t.Error("saved after the end")
	}
}
