// Package fakehost makes a test binary the program that runs supervisors: real
// processes, files, locks and sockets, with a fake VMM and an agent that is hosted by
// the supervisor.
//
//	func TestMain(m *testing.M) {
//		if code, ok := fakehost.Main(); ok {
//			os.Exit(code)
//		}
//		os.Exit(m.Run())
//	}
//
//	home := fakehost.Home(t)
//	c := smolvm.Client{Home: home, Binary: os.Args[0]}
//
// Commands run on this host, without isolation.
package fakehost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/manager"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/supervisor"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/fake"
)

// Main runs the supervisor or the keeper where this process was started as one, and
// returns its exit status.
func Main() (code int, ok bool) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		return supervise(os.Args[2:]), true
	case len(os.Args) > 1 && os.Args[1] == "keep":
		return keep(), true
	}
	return 0, false
}

// Home makes a state directory with an image and a kernel that the fake VMM takes.
// What lives in it is the caller's to end.
func Home(t testing.TB) string {
	t.Helper()
	home := t.TempDir()
	for name, text := range map[string]string{"images/base": "base", "kernels/vmlinux": "\x7fELF", "kernels/initrd": "initrd"} {
		path := filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return home
}

func keep() int {
	s, err := store.Open("")
	if err == nil {
		err = manager.New(s, manager.Options{Binary: os.Args[0]}).Keep(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// FaultsFile in the state directory says what goes wrong: lines of "stall STEP" and
// "fail STEP". What is no step of a [fake.Driver] goes wrong at once in supervisors
// that run already.
const FaultsFile = "faults"

func supervise(args []string) int {
	s, err := store.Open("")
	if err != nil {
		return 1
	}
	h := &host{home: s.Root()}
	h.Driver.Guest = h.guest
	h.Fail(fake.Start, h.fault("fail start"))
	h.Fail(fake.Probe, h.fault("fail probe"))
	for _, step := range []fake.Step{fake.Probe, fake.Start, fake.Dial, fake.Kill} {
		if h.has("stall " + string(step)) {
			h.Stall(step)
		}
	}
	return supervisor.Main(supervisor.Parts{Store: s, Driver: h, Provider: h}, args)
}

// host is the driver and the provider of one supervisor.
type host struct {
	fake.Driver
	home    string
	machine atomic.Pointer[fake.Machine]
	dials   atomic.Int64
	setup   atomic.Pointer[guest.Setup] // the last one
}

func (h *host) has(fault string) bool {
	b, _ := os.ReadFile(filepath.Join(h.home, FaultsFile))
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == fault {
			return true
		}
	}
	return false
}

func (h *host) fault(fault string) error {
	if h.has(fault) {
		return errors.New("told to " + fault)
	}
	return nil
}

// step stalls or fails a step of the provider, and marks that it was reached.
func (h *host) step(ctx context.Context, name string) error {
	if !h.has("stall " + name) {
		return h.fault("fail " + name)
	}
	os.WriteFile(filepath.Join(h.home, "reached"), nil, 0o600)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for h.has("stall " + name) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (h *host) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	os.WriteFile(filepath.Join(h.home, "reached"), nil, 0o600)
	if c.Restore != nil {
		if err := h.step(ctx, "load"); err != nil {
			return nil, err
		}
	} else {
		h.countBoot()
	}
	m, err := h.Driver.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	h.machine.Store(m.(*fake.Machine))
	return machine{m.(*fake.Machine), h}, nil
}

// BootsFile holds a byte for each machine that booted.
const BootsFile = "images/boots"

func (h *host) countBoot() {
	f, err := os.OpenFile(filepath.Join(h.home, BootsFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		f.Write([]byte{1})
		f.Close()
	}
}

// machine is a fake one whose saving can go wrong at any time.
type machine struct {
	*fake.Machine
	h *host
}

func (m machine) SaveDevices(ctx context.Context, path string) error {
	if err := m.h.step(ctx, "save"); err != nil {
		return err
	}
	return m.Machine.SaveDevices(ctx, path)
}

func (m machine) Layer(ctx context.Context, disk int, path string) error {
	if err := m.h.step(ctx, "layer"); err != nil {
		return err
	}
	return m.Machine.Layer(ctx, disk, path)
}

func (m machine) Region() (vmm.Region, error) {
	if err := m.h.step(context.Background(), "region"); err != nil {
		return vmm.Region{}, err
	}
	return m.Machine.Region()
}

// Fingerprint is that of another VMM where the test says so.
func (h *host) Fingerprint(c vmm.Config) (string, error) {
	print, err := h.Driver.Fingerprint(c)
	if h.has("other VMM") {
		print += " of another kind"
	}
	return print, err
}

func (h *host) Image(ctx context.Context, ref string, tell func(control.Progress)) (control.Image, error) {
	tell(control.Progress{Step: "image"})
	id := "sha256:" + ref
	if h.has("other image") {
		id += "-2"
	}
	return control.Image{ID: id, RootFS: "images/base", Command: []string{"echo", "the image's command"}, Env: []string{"FROM=image"}},
		h.step(ctx, "image")
}

func (h *host) Kernel(ctx context.Context) (string, string, error) {
	return filepath.Join(h.home, "kernels/vmlinux"), filepath.Join(h.home, "kernels/initrd"), h.step(ctx, "kernel")
}

func (h *host) Overlay(path string, mib int) error {
	if err := h.step(context.Background(), "overlay"); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("an empty layer"), 0o600)
}

func (h *host) Disk(ctx context.Context, path string, mib int) error {
	// A process that the supervisor starts must not hold its pipes.
	out, err := exec.Command("/bin/sh", "-c", "readlink /proc/self/fd/3 || true").Output()
	if err != nil || strings.HasPrefix(string(out), "pipe:") {
		return fmt.Errorf("descriptor 3 leaks: %s, %v", out, err)
	}
	if err := h.step(ctx, "disk"); err != nil {
		return err
	}
	if h.has("large disks") {
		return os.WriteFile(path, bytes.Repeat([]byte("disk"), 250<<10), 0o600)
	}
	return os.WriteFile(path, []byte("disk"), 0o600)
}
