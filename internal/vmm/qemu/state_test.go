package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// TestState seals a state and opens it again, as it is and after each change of a bit.
func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices")
	if err := os.WriteFile(path, []byte("what QEMU wrote"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := seal(path, "mine"); err != nil {
		t.Fatal(err)
	}
	f, err := openState(path, "mine")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make([]byte, 1000)
	n, err := f.Read(all) // as QEMU does: from the begin
	if err != nil || string(all[:15]) != "what QEMU wrote" {
		t.Fatalf("%q, %v", all[:n], err)
	}
	all = all[:n]
	bad := map[string][]byte{"nothing": nil, "longer": append(slices.Clone(all), 0)}
	for i := range all {
		flipped := slices.Clone(all)
		flipped[i] ^= 1 << (i % 8)
		bad["flipped"] = flipped
		bad["cut"] = all[:i]
		for name, b := range bad {
			mustBeBadState(t, name, checkState(b, "mine"))
		}
	}
	mustBeBadState(t, "another's", checkState(all, "yours"))
}

func mustBeBadState(t *testing.T, name string, err error) {
	t.Helper()
	e := api.AsError(err)
	if err == nil || e.Class != api.Invalid || e.Code != vmm.CodeState {
		t.Errorf("%s: class %s, code %q: %v", name, e.Class, e.Code, err)
	}
}

func TestSealRefusesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := seal(path, "mine"); err == nil {
		t.Error("an empty state was sealed")
	}
}

func TestParseMaps(t *testing.T) {
	const dev, ino = 0xfe<<8 | 1, 42
	const other = "55d0c0000000-55d0c0001000 r--p 00000000 fe:01 7 /usr/bin/qemu\n7f00-7f01 rw-p 00000000 00:00 0\n"
	for name, c := range map[string]struct {
		maps string
		want vmm.Region
		bad  bool
	}{
		"one piece":      {other + "7f0000000000-7f0000200000 rw-p 00000000 fe:01 42 /a b (deleted)\n", vmm.Region{Addr: 0x7f0000000000, Size: 2 << 20}, false},
		"two, joined":    {"1000-2000 rw-p 00000000 fe:01 42 /m\n2000-4000 rw-p 00001000 fe:01 42 /m\n", vmm.Region{Addr: 0x1000, Size: 0x3000}, false},
		"a gap":          {"1000-2000 rw-p 00000000 fe:01 42 /m\n3000-4000 rw-p 00001000 fe:01 42 /m\n", vmm.Region{}, true},
		"begin missing":  {"1000-2000 rw-p 00001000 fe:01 42 /m\n", vmm.Region{}, true},
		"twice":          {"1000-2000 rw-p 00000000 fe:01 42 /m\n2000-3000 rw-p 00000000 fe:01 42 /m\n", vmm.Region{}, true},
		"another device": {"1000-2000 rw-p 00000000 fe:02 42 /m\n", vmm.Region{}, false},
		"btrfs":          {"1000-2000 rw-p 00000000 00:2a 42 /mem\n", vmm.Region{Addr: 0x1000, Size: 0x1000}, false},
		"no maps":        {"hello\n", vmm.Region{}, true},
	} {
		r, err := parseMaps(c.maps, "/mem", dev, ino)
		if (err != nil) != c.bad || !c.bad && r != c.want {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	d := &Driver{Binary: filepath.Join(t.TempDir(), "qemu")}
	if err := os.WriteFile(d.Binary, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	base := vmm.Config{CPUs: 1, MemoryMiB: 256, Accel: api.AccelTCG, Disks: []vmm.Disk{{Path: "/a", Format: vmm.Raw}}}
	print := func(c vmm.Config) string {
		t.Helper()
		s, err := d.Fingerprint(c)
		if err != nil || s == "" {
			t.Fatalf("%q, %v", s, err)
		}
		return s
	}
	first := print(base)
	for name, change := range map[string]func(*vmm.Config){
		"names and files": func(c *vmm.Config) { c.Name, c.Dir, c.Kernel, c.Args = "other", "/x", "/k", "quiet" },
		"memory's file":   func(c *vmm.Config) { c.Memory = &vmm.Memory{Path: "/m"} },
		"shared memory":   func(c *vmm.Config) { c.Memory = &vmm.Memory{Path: "/m", Shared: true} },
		"restored":        func(c *vmm.Config) { c.Memory, c.Restore = &vmm.Memory{Path: "/m"}, &vmm.Restore{Devices: "/d"} },
		"layered disk": func(c *vmm.Config) {
			c.Disks = []vmm.Disk{{Path: "/b", Format: vmm.Qcow2, Backing: []vmm.Layer{{Path: "/a", Format: vmm.Raw}}}}
		},
		"no filter": func(c *vmm.Config) { c.NoSeccomp = true },
	} {
		c := base
		if change(&c); print(c) != first {
			t.Errorf("%s: the guest sees nothing of it", name)
		}
	}
	for name, change := range map[string]func(*vmm.Config){
		"processors": func(c *vmm.Config) { c.CPUs++ },
		"memory":     func(c *vmm.Config) { c.MemoryMiB++ },
		"disks":      func(c *vmm.Config) { c.Disks = append(c.Disks, c.Disks[0]) },
	} {
		c := base
		if change(&c); print(c) == first {
			t.Errorf("%s: not told apart", name)
		}
	}
	if err := os.WriteFile(d.Binary, []byte("#!/bin/sh\nexit 100\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if print(base) == first {
		t.Error("another program: not told apart")
	}
}

func TestHostProcessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpuinfo")
	const one = "processor\t: 0\nvendor_id\t: X\nmodel\t\t: 1\ncpu MHz\t\t: 12\nflags\t\t: a b\n\n"
	if err := os.WriteFile(path, []byte(one+"processor\t: 1\nvendor_id\t: Y\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := hostProcessor(path); err != nil || got != "X; 1; a b" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := hostProcessor(cpuInfo); err != nil || got == "" {
		t.Errorf("this host: %q, %v", got, err)
	}
}
