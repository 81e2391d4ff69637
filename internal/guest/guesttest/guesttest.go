// Package guesttest boots a real guest for tests: the agent of this checkout as
// process 1, on the user's kernel and base image, set up where they are missing.
//
//	m := guesttest.Boot(t)
//	c := guest.Client{Opener: m.Dial(t)}
//	res, err := c.Run(ctx, guest.Exec{Argv: []string{"true"}})
//
//	s := guesttest.BootToSave(t).Save(t)
//	a, b := s.Copy(t), s.Copy(t)
package guesttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

const (
	memoryMiB = 512
	// The writable disk is made smaller than its file becomes, for GrowDisk.
	formattedMiB = 128
	// DiskMiB is the size of the writable disk.
	DiskMiB = 320
	// bootTime bounds a boot, under emulation on busy cores.
	bootTime = 2 * time.Minute
)

// Machine is a guest.
type Machine struct {
	vm     vmm.Machine
	config vmm.Config
}

// Boot boots a guest. It is killed at the end of the test.
func Boot(t testing.TB) *Machine {
	t.Helper()
	return boot(t, nil)
}

// BootToSave is Boot for a guest that will be saved.
func BootToSave(t testing.TB) *Machine {
	t.Helper()
	return boot(t, newMemory(t))
}

func boot(t testing.TB, memory *vmm.Memory) *Machine {
	t.Helper()
	home, dir := testenv.Home(t), t.TempDir()
	s, err := store.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	c := vmm.Config{Name: "guesttest", Dir: dir, CPUs: 2, MemoryMiB: memoryMiB, Memory: memory}
	writable := filepath.Join(dir, "disk.img")
	c.Disks = []vmm.Disk{{Path: baseImage(t, s), Format: vmm.Raw, ReadOnly: true}, {Path: writable, Format: vmm.Raw}}
	if err := disk.Create(t.Context(), writable, formattedMiB); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(writable, DiskMiB<<20); err != nil {
		t.Fatal(err)
	}
	c.Kernel, c.Initrd = bootFiles(t, s)
	m := &Machine{config: c}
	m.start(t)
	t.Cleanup(func() { m.vm.Kill() })
	return m
}

func baseImage(t testing.TB, s store.Store) string {
	t.Helper()
	images, err := image.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	base, err := images.Resolve(t.Context(), image.Base)
	if err != nil {
		t.Fatal(err)
	}
	return base.RootFS
}

func bootFiles(t testing.TB, s store.Store) (vmlinux, initrd string) {
	t.Helper()
	k, err := kernel.Current(s)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "github.com/smolvm/smolvm/cmd/smolvm-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	agent, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	// In a store of its own: the agent of a test is nobody else's.
	own, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	initrd, err = initramfs.Build(own, k, agent)
	if err != nil {
		t.Fatal(err)
	}
	return k.Vmlinux(), initrd
}

func (m *Machine) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	var err error
	if m.vm, err = new(qemu.Driver).Start(ctx, m.config); err != nil {
		t.Fatal(err)
	}
}

// Restart boots a guest that has ended again, on the same disk.
func (m *Machine) Restart(t testing.TB) {
	t.Helper()
	m.vm.Kill()
	m.start(t)
}

// Dial connects to the agent. Close the session before the next.
func (m *Machine) Dial(t testing.TB) *guest.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	conn, err := m.vm.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := guest.Connect(ctx, conn)
	if err != nil {
		t.Fatalf("%v\n%s", err, m.vm.LastWords())
	}
	return s
}

// Ended waits until the guest has ended by itself and returns how.
func (m *Machine) Ended(t testing.TB, limit time.Duration) error {
	t.Helper()
	select {
	case <-m.vm.Done():
		return m.vm.Err()
	case <-time.After(limit):
		t.Fatalf("the guest still runs\n%s", m.vm.LastWords())
		return nil
	}
}

// Kill ends the guest at once. It may be called twice.
func (m *Machine) Kill() { m.vm.Kill() }

// CPU is the processor time that the machine took so far: a measure of what was
// done that other work on the host hardly changes.
func (m *Machine) CPU() time.Duration {
	var total time.Duration
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", m.vm.Info().PID))
	for _, t := range tasks {
		var ns int64
		b, _ := os.ReadFile(t)
		fmt.Sscan(string(b), &ns)
		total += time.Duration(ns)
	}
	return total
}

// LastWords is the end of the console.
func (m *Machine) LastWords() string { return m.vm.LastWords() }

// Writable is the path of the writable disk.
func (m *Machine) Writable() string { return m.config.Disks[1].Path }
