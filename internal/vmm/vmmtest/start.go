package vmmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

func probe(t *testing.T, h Harness) {
	c, err := h.Driver.Probe(h.context(t))
	if err != nil {
		t.Fatal(err)
	}
	if c.Version == "" {
		t.Error("no version")
	}
	if c.Accel != api.AccelKVM && c.Accel != api.AccelTCG {
		t.Errorf("accelerator %q is not resolved", c.Accel)
	}
	if (c.Accel == api.AccelKVM) != (c.NoKVM == "") {
		t.Errorf("accelerator %s, but why not KVM: %q", c.Accel, c.NoKVM)
	}
	if c.Isolation != c.Accel.Isolation() {
		t.Errorf("isolation %s with accelerator %s", c.Isolation, c.Accel)
	}
	host, err := h.Driver.Host(h.context(t))
	c.Version = ""
	if err != nil || host != c {
		t.Errorf("host %+v, %v, probed %+v", host, err, c)
	}
}

// badConfigs are changes that each make a good Config bad.
func badConfigs(t *testing.T, h Harness) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := file + ".gone"
	for name, spoil := range map[string]func(*vmm.Config){
		"no name":               func(c *vmm.Config) { c.Name = "" },
		"long name":             func(c *vmm.Config) { c.Name = strings.Repeat("x", vmm.MaxName+1) },
		"name with line feed":   func(c *vmm.Config) { c.Name = "a\nb" },
		"no directory":          func(c *vmm.Config) { c.Dir = "" },
		"directory is missing":  func(c *vmm.Config) { c.Dir = gone },
		"directory is a file":   func(c *vmm.Config) { c.Dir = file },
		"no CPUs":               func(c *vmm.Config) { c.CPUs = 0 },
		"negative CPUs":         func(c *vmm.Config) { c.CPUs = -1 },
		"too many CPUs":         func(c *vmm.Config) { c.CPUs = vmm.MaxCPUs + 1 },
		"no memory":             func(c *vmm.Config) { c.MemoryMiB = 0 },
		"too little memory":     func(c *vmm.Config) { c.MemoryMiB = vmm.MinMemoryMiB - 1 },
		"too much memory":       func(c *vmm.Config) { c.MemoryMiB = vmm.MaxMemoryMiB + 1 },
		"no kernel":             func(c *vmm.Config) { c.Kernel = "" },
		"kernel is missing":     func(c *vmm.Config) { c.Kernel = gone },
		"kernel is no ELF file": func(c *vmm.Config) { c.Kernel = file },
		"kernel is a directory": func(c *vmm.Config) { c.Kernel = c.Dir },
		"no initrd":             func(c *vmm.Config) { c.Initrd = "" },
		"initrd is missing":     func(c *vmm.Config) { c.Initrd = gone },
		"long args":             func(c *vmm.Config) { c.Args = strings.Repeat("x", vmm.MaxArgs+1) },
		"args with line feed":   func(c *vmm.Config) { c.Args = "a\nb" },
		"args with NUL":         func(c *vmm.Config) { c.Args = "a\x00b" },
		"too many disks":        func(c *vmm.Config) { c.Disks = make([]vmm.Disk, vmm.MaxDisks+1) },
		"disk without path":     func(c *vmm.Config) { c.Disks = []vmm.Disk{{Format: vmm.Raw}} },
		"disk is missing":       func(c *vmm.Config) { c.Disks = []vmm.Disk{{Path: gone, Format: vmm.Raw}} },
		"disk is a device":      func(c *vmm.Config) { c.Disks = []vmm.Disk{{Path: os.DevNull, Format: vmm.Raw}} },
		"disk without format":   func(c *vmm.Config) { c.Disks = []vmm.Disk{{Path: file}} },
		"disk format unknown":   func(c *vmm.Config) { c.Disks = []vmm.Disk{{Path: file, Format: "vmdk"}} },
		"accelerator unknown":   func(c *vmm.Config) { c.Accel = "magic" },
		"card without a wire":   func(c *vmm.Config) { c.Network = &vmm.Network{MAC: testMAC} },
		"card without address":  func(c *vmm.Config) { c.Network = &vmm.Network{Wire: os.Stdin} },
		"card for a multitude":  func(c *vmm.Config) { c.Network = &vmm.Network{Wire: os.Stdin, MAC: [6]byte{1}} },
	} {
		t.Run(name, func(t *testing.T) {
			r := look(t)
			c := h.Config(t)
			good := c
			spoil(&c)
			h.mustRefuse(t, c, api.Invalid)
			r.same(t, good)
		})
	}
}

// mustRefuse starts a machine that must not start and returns the error.
func (h Harness) mustRefuse(t *testing.T, c vmm.Config, class api.Class) error {
	t.Helper()
	m, err := h.Driver.Start(h.context(t), c)
	if c.Network != nil && c.Network.Wire != nil && c.Network.Wire != os.Stdin {
		c.Network.Wire.Close()
	}
	if err == nil {
		m.Kill()
		t.Fatal("the machine started")
	}
	if got := api.ClassOf(err); got != class {
		t.Errorf("class %s, want %s: %v", got, class, err)
	}
	return err
}

func refused(t *testing.T, h Harness) {
	r := look(t)
	c := h.Config(t)
	want := h.Refused(t, &c)
	err := h.mustRefuse(t, c, api.Unavailable)
	if !strings.Contains(err.Error(), want) {
		t.Errorf("%q is not in the error: %v", want, err)
	}
	r.sameFiles(t, c)
}

// cancelled cancels starts before they begin and while they go on.
func cancelled(t *testing.T, h Harness) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			r := look(t)
			c := h.Config(t)
			ctx, cancel := context.WithTimeoutCause(t.Context(), after, nil)
			defer cancel()
			m, err := h.Driver.Start(ctx, c)
			if err == nil { // it was faster
				if after == 0 {
					t.Error("started though the context had ended")
				}
				m.Kill()
				r.same(t, c)
				return
			}
			if api.ClassOf(err) != api.Timeout || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("class %s: %v", api.ClassOf(err), err)
			}
			r.sameFiles(t, c)
		})
	}
	t.Run("life goes on after the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(h.context(t))
		m, err := h.Driver.Start(ctx, h.Config(t))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Kill()
		cancel()
		if err := m.Pause(h.context(t)); err != nil {
			t.Errorf("the machine ended with the context of its start: %v", err)
		}
	})
}
