package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/agentbin"
	"github.com/smolvm/smolvm/internal/bench"
	"github.com/smolvm/smolvm/internal/cli"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/disk"
	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/manager"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/supervisor"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// supervise is the hidden command: this process becomes a sandbox's supervisor.
// Here, and only here, contracts meet what fulfils them.
func supervise(args []string) int {
	s, err := store.Open("")
	if err != nil {
		fmt.Fprintln(os.Stderr, "smolvm:", err)
		return 1
	}
	return supervisor.Main(supervisor.Parts{Store: s, Driver: &qemu.Driver{}, Provider: provider{s}}, args)
}

// keep is the hidden command that keeps pools full until there is none. Its argument
// is the budget of templates in MiB.
func keep(args []string) int {
	budget := 0
	if len(args) > 0 {
		budget, _ = strconv.Atoi(args[0]) // what is no number means the default
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP) // a terminal's are for the client
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := store.Open("")
	if err == nil {
		err = manager.New(s, manager.Options{TemplateBudgetMiB: budget}).Keep(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "smolvm:", err)
		return 1
	}
	return 0
}

// provider gives sandboxes what this host's state directory holds.
type provider struct{ s store.Store }

// Image finds an image here, and pulls one that is named as registries name them.
func (p provider) Image(ctx context.Context, ref string, tell func(control.Progress)) (control.Image, error) {
	images, err := image.Open(p.s)
	if err != nil {
		return control.Image{}, err
	}
	img, scratch, err := images.FromScratch(ref)
	if !scratch {
		img, err = images.Resolve(ctx, ref)
	}
	switch {
	case err == nil:
	case errors.Is(err, api.ErrNotFound) && ref == api.DefaultImage:
		return control.Image{}, api.Errorf(api.NotFound, "the default image is not here yet").
			WithCode("missing_dependency").WithRecovery("Get it with: smolvm setup")
	case errors.Is(err, api.ErrNotFound) && strings.ContainsAny(ref, "/:"):
		img, err = images.Pull(ctx, ref, image.PullOptions{Progress: func(g image.Progress) {
			tell(control.Progress{Step: g.Step, Done: g.Done, Total: g.Total})
		}})
		if err != nil {
			return control.Image{}, err
		}
	default:
		return control.Image{}, err
	}
	base, err := filepath.Rel(p.s.Root(), img.RootFS)
	if err != nil {
		return control.Image{}, err
	}
	c := img.Config
	return control.Image{
		ID: img.Digest, RootFS: base, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User,
		Command: append(append([]string(nil), c.Entrypoint...), c.Cmd...),
	}, nil
}

// Kernel returns the current kernel, and the initramfs that holds this
// program's agent.
func (p provider) Kernel(ctx context.Context) (string, string, error) {
	k, err := kernel.Current(p.s)
	if err != nil {
		return "", "", err
	}
	sum, err := agentbin.Digest()
	if err != nil {
		return "", "", err
	}
	if initrd, ok := initramfs.Find(p.s, k, sum); ok {
		return k.Vmlinux(), initrd, nil
	}
	agent, err := agentbin.Bytes()
	if err != nil {
		return "", "", err
	}
	initrd, err := initramfs.Build(p.s, k, agent)
	return k.Vmlinux(), initrd, err
}

// Disk makes the writable layer.
func (p provider) Disk(ctx context.Context, path string, mib int) error {
	return disk.Create(ctx, path, mib)
}

// Overlay makes a layer of the writable disk.
func (p provider) Overlay(path string, mib int) error { return disk.Overlay(path, int64(mib)<<20) }

// floor is what smolvm bench compares with.
func floor(ctx context.Context, spec api.Spec, n int, then func() error) (cli.FloorTimes, error) {
	s, err := store.Open("")
	if err != nil {
		return cli.FloorTimes{}, err
	}
	t, err := bench.Floor{Store: s, Driver: &qemu.Driver{}}.Continue(ctx, spec, n, then)
	return cli.FloorTimes(t), err
}
