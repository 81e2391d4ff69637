package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/vmmtest"
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		nestedInit()
	}
	os.Exit(vmmtest.Main(m, &Driver{}))
}

func TestVM(t *testing.T) {
	kernel, initrd := guest(t)
	var bootTime time.Duration
	if os.Getenv(envAccel) != "" {
		bootTime = 4 * time.Minute // KVM itself is emulated; a boot takes half a minute on a busy host
	}
	vmmtest.Run(t, vmmtest.Harness{
		Driver: &Driver{},
		Config: func(t *testing.T) vmm.Config { return config(t, kernel, initrd) },
		Broken: func(c *vmm.Config) string {
			c.Args = "rdinit=/nothing root=/nothing"
			return "Kernel panic"
		},
		Refused: func(t *testing.T, c *vmm.Config) string {
			c.Kernel = filepath.Join(t.TempDir(), "kernel")
			if err := os.WriteFile(c.Kernel, []byte("\x7fELF and no more"), 0o600); err != nil {
				t.Fatal(err)
			}
			return "kernel"
		},
		BootTime: bootTime,
		Overlay: func(t *testing.T, path string, size int64) {
			if err := disk.Overlay(path, size); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// config returns the config of a machine in a directory with a comma and with a
// path too long for a socket's address.
func config(t testing.TB, kernel, initrd string) vmm.Config {
	dir := filepath.Join(t.TempDir(), "a,b", strings.Repeat("long", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	base, private := filepath.Join(t.TempDir(), "base,1"), filepath.Join(t.TempDir(), "disk,1")
	for path, size := range map[string]int64{base: 1 << 20, private: 2 << 20} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	return vmm.Config{
		Accel: api.Accel(os.Getenv(envAccel)),
		Name:  "vmmtest of " + t.TempDir(), Dir: dir, CPUs: 2, MemoryMiB: 256,
		Kernel: kernel, Initrd: initrd,
		Disks: []vmm.Disk{{Path: base, Format: vmm.Raw, ReadOnly: true}, {Path: private, Format: vmm.Raw}},
	}
}
