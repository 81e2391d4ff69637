package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// memoryMiB is the guests' memory; the floor's and the sandbox's alike.
const memoryMiB = 512

// boots measures create without a template, and the program's own start.
func boots(ctx context.Context, b *bench) error {
	version, err := collect(30, 3, func() error { return b.cli(ctx, "version") })
	if err != nil {
		return err
	}
	report("smolvm version", version, nil)
	run, err := collect(5, 1, func() error { return b.cli(ctx, "run", "--memory", fmt.Sprint(memoryMiB), "--", "true") })
	if err != nil {
		return err
	}
	report("smolvm run -- true, booted", run, nil)
	return nil
}

// execs measures the round trip of `true` against the floor.
func execs(ctx context.Context, b *bench) error {
	floor, err := floorExec(ctx)
	if err != nil {
		return err
	}
	report("floor: fork and exec over the bare port", floor, nil)
	sb, err := b.client.Create(ctx, smolvm.Spec{MemoryMiB: memoryMiB, Ephemeral: true})
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	sdk, err := collect(300, 50, func() error {
		_, err := sb.Run(ctx, smolvm.Command{Argv: []string{"/bin/true"}})
		return err
	})
	if err != nil {
		return err
	}
	report("SDK: Run(true)", sdk, floor)
	cli, err := collect(50, 5, func() error { return b.cli(ctx, "exec", sb.ID(), "--", "true") })
	if err != nil {
		return err
	}
	report("smolvm exec ID -- true, whole process", cli, floor)
	return nil
}

// floorExec boots the floor guest and measures its round trip.
func floorExec(ctx context.Context) (sample, error) {
	dir, err := os.MkdirTemp("", "smolvm-floor-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := floorConfig(ctx, dir)
	if err != nil {
		return nil, err
	}
	m, err := new(qemu.Driver).Start(ctx, c)
	if err != nil {
		return nil, err
	}
	defer m.Kill()
	conn, err := m.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The first answer comes when the guest has booted.
	conn.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 1)
	return collect(300, 50, func() error {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return fmt.Errorf("floor guest: %w\n%s", err, m.LastWords())
		}
		return nil
	})
}

func floorConfig(ctx context.Context, dir string) (vmm.Config, error) {
	s, err := store.Open("")
	if err != nil {
		return vmm.Config{}, err
	}
	k, err := kernel.Current(s)
	if err != nil {
		return vmm.Config{}, err
	}
	images, err := image.Open(s)
	if err != nil {
		return vmm.Config{}, err
	}
	base, err := images.Resolve(ctx, "base")
	if err != nil {
		return vmm.Config{}, err
	}
	init, err := buildFloor(ctx, dir)
	if err != nil {
		return vmm.Config{}, err
	}
	initrd, err := initramfs.Build(s, k, init)
	if err != nil {
		return vmm.Config{}, err
	}
	layer := filepath.Join(dir, "disk.img")
	return vmm.Config{
		Name: "floor", Dir: dir, CPUs: 1, MemoryMiB: memoryMiB, Kernel: k.Vmlinux(), Initrd: initrd,
		Disks: []vmm.Disk{{Path: base.RootFS, Format: vmm.Raw, ReadOnly: true}, {Path: layer, Format: vmm.Raw}},
	}, disk.Create(ctx, layer, 1024)
}

func buildFloor(ctx context.Context, dir string) ([]byte, error) {
	path := filepath.Join(dir, "floor")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./bench/floor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the floor guest: %w\n%s", err, out)
	}
	return os.ReadFile(path)
}
