// Package bench measures the raw floor: what the VMM alone takes to do what
// smolvm does. Its guest has smolvm's kernel, image and disks, but in place of the
// agent only a loop that starts /bin/true, and there is no supervisor.
//
//	f := bench.Floor{Store: s, Driver: d}
//	times, err := f.Continue(ctx, spec, 20, func() error { ... })
//
// What is above it is smolvm's own cost, and what is below it nobody can save
// without another VMM.
package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/agentbin"
	"github.com/smolvm/smolvm/internal/guestmem"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Floor measures the floor. Its methods leave nothing behind.
type Floor struct {
	Store  store.Store // has the kernel and the image
	Driver vmm.Driver  // whose machines can be saved

	// Agent has smolvm's agent in the guest after all: what is above that floor is
	// the supervisor and the guest's new identity, what is below it the agent.
	Agent bool
}

// Continued is what it took to continue a saved machine, n times: all from the
// start of the VMM, but Second.
type Continued struct {
	Greeted []time.Duration // the VMM answers
	Loaded  []time.Duration // the machine's memory and devices are loaded
	First   []time.Duration // the first command has ended
	Second  []time.Duration // the second command alone
}

const (
	warm   = 5                      // commands before the guest is saved: they page in what the next one needs
	settle = 500 * time.Millisecond // for the guest to become quiet before it is saved

	bootTime = 3 * time.Minute
)

// Continue boots a guest of spec's image and sizes, saves it, and continues it n
// times, one after the other. After each it calls then, if that is not nil, to
// measure what is compared with the floor: a host is not as fast now as a minute ago.
func (f Floor) Continue(ctx context.Context, spec api.Spec, n int, then func() error) (Continued, error) {
	var t Continued
	if _, ok := f.Driver.(vmm.Restorer); !ok {
		return t, api.Errorf(api.Unavailable, "measure the floor: this VMM cannot save machines")
	}
	spec = spec.WithDefaults()
	err := f.with(ctx, spec, func(c vmm.Config) error {
		saved, err := f.save(ctx, c)
		if err != nil {
			return fmt.Errorf("measure the floor: %w", err)
		}
		for range n {
			if err := f.again(ctx, saved, spec.DiskMiB, &t); err != nil {
				return fmt.Errorf("measure the floor: %w", err)
			}
			if then == nil {
				continue
			}
			if err := then(); err != nil {
				return err
			}
		}
		return nil
	})
	return t, err
}

// Commands boots a guest as Continue does and measures n commands in it, after warm
// ones that do not count.
func (f Floor) Commands(ctx context.Context, spec api.Spec, warm, n int) (times []time.Duration, err error) {
	err = f.with(ctx, spec.WithDefaults(), func(c vmm.Config) error {
		g, err := f.boot(ctx, c)
		if err != nil {
			return err
		}
		defer g.vm.Kill()
		defer g.close()
		for i := range warm + n {
			t := time.Now()
			if err := g.command(ctx); err != nil {
				return err
			}
			if i >= warm {
				times = append(times, time.Since(t))
			}
		}
		return nil
	})
	return times, err
}

// with calls do with the config of the floor's guest, whose files last as long.
func (f Floor) with(ctx context.Context, spec api.Spec, do func(vmm.Config) error) error {
	scratch, err := f.Store.Scratch("floor")
	if err != nil {
		return err
	}
	defer scratch.Close()
	c, err := f.config(ctx, spec, scratch.Path())
	if err != nil {
		return fmt.Errorf("measure the floor: %w", err)
	}
	return do(c)
}

func (f Floor) config(ctx context.Context, spec api.Spec, dir string) (vmm.Config, error) {
	k, err := kernel.Current(f.Store)
	if err != nil {
		return vmm.Config{}, err
	}
	agent, err := agentbin.Bytes()
	if err != nil {
		return vmm.Config{}, err
	}
	initrd, err := initramfs.Build(f.Store, k, agent)
	if err != nil {
		return vmm.Config{}, err
	}
	images, err := image.Open(f.Store)
	if err != nil {
		return vmm.Config{}, err
	}
	base, err := images.Resolve(ctx, spec.Image)
	if err != nil {
		return vmm.Config{}, err
	}
	layer := filepath.Join(dir, "disk.img")
	if err := disk.Create(ctx, layer, spec.DiskMiB); err != nil {
		return vmm.Config{}, err
	}
	memory := filepath.Join(dir, "memory")
	c := vmm.Config{
		Name: "floor", Dir: dir, CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, Accel: spec.Accel,
		Kernel: k.Vmlinux(), Initrd: initrd,
		Disks:  []vmm.Disk{{Path: base.RootFS, Format: vmm.Raw, ReadOnly: true}, {Path: layer, Format: vmm.Raw}},
		Memory: &vmm.Memory{Path: memory, Shared: true},
	}
	if !f.Agent {
		c.Args = "-- floor" // what follows the dashes are arguments of the first process
	}
	return c, guestmem.BaseFile(memory, spec.MemoryMiB)
}

// boot boots the guest and returns when it has executed its first command.
func (f Floor) boot(ctx context.Context, c vmm.Config) (*talk, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	m, err := f.Driver.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	g, err := f.dial(ctx, m)
	if err == nil {
		err = g.command(ctx)
	}
	if err != nil {
		m.Kill()
		return nil, err
	}
	return g, nil
}

// save returns what continues the guest.
func (f Floor) save(ctx context.Context, c vmm.Config) (vmm.Config, error) {
	g, err := f.boot(ctx, c)
	if err != nil {
		return c, err
	}
	defer g.vm.Kill()
	for range warm {
		if err := g.command(ctx); err != nil {
			return c, err
		}
	}
	g.close()
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return c, context.Cause(ctx)
	}
	if err := g.vm.Pause(ctx); err != nil {
		return c, err
	}
	devices := filepath.Join(c.Dir, "devices")
	if err := g.vm.(vmm.Saver).SaveDevices(ctx, devices); err != nil {
		return c, err
	}
	c.Memory = &vmm.Memory{Path: c.Memory.Path}
	c.Restore = &vmm.Restore{Devices: devices}
	return c, nil
}

// again continues the saved guest once more.
func (f Floor) again(ctx context.Context, c vmm.Config, diskMiB int, t *Continued) error {
	below := c.Disks[1]
	top := filepath.Join(c.Dir, "top.qcow2")
	if err := disk.Overlay(top, int64(diskMiB)<<20); err != nil {
		return err
	}
	defer os.Remove(top)
	c.Disks = []vmm.Disk{c.Disks[0], {Path: top, Format: vmm.Qcow2, Backing: []vmm.Layer{{Path: below.Path, Format: below.Format}}}}
	var greeted, loaded, first time.Duration
	begin := time.Now()
	restore := *c.Restore
	restore.Fill = func(vmm.Region) error { greeted = time.Since(begin); return nil }
	c.Restore = &restore
	m, err := f.Driver.Start(ctx, c)
	if err != nil {
		return err
	}
	defer m.Kill()
	loaded = time.Since(begin)
	if err := m.Resume(ctx); err != nil {
		return err
	}
	g, err := f.dial(ctx, m)
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.command(ctx); err != nil {
		return err
	}
	first = time.Since(begin)
	if err := g.command(ctx); err != nil {
		return err
	}
	t.Second = append(t.Second, time.Since(begin)-first)
	t.Greeted, t.Loaded, t.First = append(t.Greeted, greeted), append(t.Loaded, loaded), append(t.First, first)
	return nil
}
