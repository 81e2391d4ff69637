package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestArgs(t *testing.T) {
	base := vmm.Config{
		Name: "web", CPUs: 2, MemoryMiB: 512, Kernel: "/k/vmlinux", Initrd: "/k/initrd",
		Disks: []vmm.Disk{
			{Path: "/images/base.ext4", Format: vmm.Raw, ReadOnly: true},
			{Path: "/sandboxes/1/disk.img", Format: vmm.Raw},
		},
	}
	card := &vmm.Network{MAC: [6]byte{2, 0, 0, 0, 0, 7}}
	for name, c := range map[string]struct {
		accel  api.Accel
		change func(*vmm.Config)
	}{
		"kvm":         {api.AccelKVM, func(*vmm.Config) {}},
		"tcg":         {api.AccelTCG, func(*vmm.Config) {}},
		"nodisks":     {api.AccelTCG, func(c *vmm.Config) { c.Disks = nil }},
		"tcg-memory":  {api.AccelTCG, func(c *vmm.Config) { c.Memory = &vmm.Memory{Path: "/t/memory", Shared: true} }},
		"kvm-memory":  {api.AccelKVM, func(c *vmm.Config) { c.Memory = &vmm.Memory{Path: "/t/memory"} }},
		"tcg-restore": {api.AccelTCG, continued},
		"kvm-restore": {api.AccelKVM, continued},
		"tcg-network": {api.AccelTCG, func(c *vmm.Config) { c.Network = card }},
		"kvm-network": {api.AccelKVM, func(c *vmm.Config) { c.Network = card }},
		"strange": {api.AccelTCG, func(c *vmm.Config) {
			c.Name, c.NoSeccomp, c.Args = "a,b=c", true, "debug init=/bin/sh"
			c.Kernel = "/k,1/vmlinux" // an argument of its own: commas are no matter
			c.Disks = []vmm.Disk{{Path: "/d,1/x.qcow2", Format: vmm.Qcow2}, {Path: "/d,2", Format: vmm.Qcow2, ReadOnly: true}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			config := base
			config.Disks = slices.Clone(base.Disks)
			c.change(&config)
			got := lines(plan{Config: config, accel: c.accel}.args())
			golden(t, filepath.Join("testdata", name+".args"), got)
		})
	}
}

// continued makes c a saved machine with a disk of several layers.
func continued(c *vmm.Config) {
	c.Kernel, c.Initrd = "", ""
	c.Memory, c.Restore = &vmm.Memory{Path: "/t/a,b/memory"}, &vmm.Restore{Devices: "/t/devices"}
	c.Disks[1] = vmm.Disk{Path: "/sandboxes/1/layer-2", Format: vmm.Qcow2, Backing: []vmm.Layer{
		{Path: "/t/layer-1", Format: vmm.Qcow2}, {Path: "/t/a,b\"c/disk.img", Format: vmm.Raw},
	}}
}

// lines writes an option and its value on one line each.
func lines(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String() + "\n"
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", path, got, want)
	}
}
