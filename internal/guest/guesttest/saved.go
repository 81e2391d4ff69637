package guesttest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// Saved is a guest as it was when it was saved.
type Saved struct{ config vmm.Config }

// Save saves the guest and ends it.
func (m *Machine) Save(t testing.TB) *Saved {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	vm := m.vm.(vmm.Saver)
	if err := vm.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	c := m.config
	c.Kernel, c.Initrd = "", ""
	c.Memory = &vmm.Memory{Path: c.Memory.Path}
	c.Restore = &vmm.Restore{Devices: filepath.Join(t.TempDir(), "devices")}
	if err := vm.SaveDevices(ctx, c.Restore.Devices); err != nil {
		t.Fatal(err)
	}
	vm.Kill()
	return &Saved{config: c}
}

// Copy starts a guest that continues the saved one, on a disk layer of its own. It
// is killed at the end of the test.
func (s *Saved) Copy(t testing.TB) *Machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	m := &Machine{config: s.config}
	m.config.Dir = t.TempDir()
	layer := filepath.Join(m.config.Dir, "layer")
	if err := disk.Overlay(layer, DiskMiB<<20); err != nil {
		t.Fatal(err)
	}
	below := s.config.Disks[1]
	m.config.Disks = []vmm.Disk{s.config.Disks[0], {Path: layer, Format: vmm.Qcow2, Backing: []vmm.Layer{{Path: below.Path, Format: below.Format}}}}
	vm, err := new(qemu.Driver).Start(ctx, m.config)
	if err != nil {
		t.Fatal(err)
	}
	m.vm = vm
	t.Cleanup(func() { vm.Kill() })
	if err := vm.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

// newMemory makes the file behind a guest's memory.
func newMemory(t testing.TB) *vmm.Memory {
	t.Helper()
	path := filepath.Join(t.TempDir(), "memory")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(memoryMiB << 20); err != nil {
		t.Fatal(err)
	}
	return &vmm.Memory{Path: path, Shared: true}
}
