package fake

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/vmmtest"
)

func TestMain(m *testing.M) { os.Exit(vmmtest.Main(m, &Driver{})) }

// obedient is a driver that does what vmmtest asks of its guest: it breaks where
// the kernel's arguments say so, and refuses a kernel that says so.
type obedient struct{ *Driver }

func (o obedient) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if b, err := os.ReadFile(c.Kernel); err == nil && strings.Contains(string(b), "refuse") {
		o.Fail(Start, api.Errorf(api.Unavailable, "a kernel to refuse"))
		defer o.Fail(Start, nil)
	}
	m, err := o.Driver.Start(ctx, c)
	if err == nil && c.Args == "break" {
		o.Machine(c.Name).Reset("a broken guest")
	}
	return m, err
}

func TestContract(t *testing.T) {
	d := &Driver{Guest: testGuest}
	vmmtest.Run(t, vmmtest.Harness{
		Driver: obedient{d},
		Config: config,
		Broken: func(c *vmm.Config) string { c.Args = "break"; return "a broken guest" },
		Refused: func(t *testing.T, c *vmm.Config) string {
			c.Kernel = write(t, "refuse", "\x7fELF refuse")
			return "a kernel to refuse"
		},
		Overlay: func(t *testing.T, path string, _ int64) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		BootTime: 10 * time.Second,
	})
	if n := d.Running(); n != 0 {
		t.Errorf("%d machines run on", n)
	}
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func config(t *testing.T) vmm.Config {
	return vmm.Config{
		Name: "fake of " + t.TempDir(), Dir: t.TempDir(), CPUs: 2, MemoryMiB: 256,
		Kernel: write(t, "kernel", "\x7fELF"), Initrd: write(t, "initrd", ""),
		Disks: []vmm.Disk{
			{Path: write(t, "base", strings.Repeat("b", 1024)), Format: vmm.Raw, ReadOnly: true},
			{Path: write(t, "disk", strings.Repeat("d", 2048)), Format: vmm.Raw},
		},
	}
}

func TestFail(t *testing.T) {
	d := &Driver{}
	c := config(t)
	fault := errors.New("as told")
	ctx := t.Context()
	m, err := d.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	for step, call := range map[Step]func() error{
		Probe:  func() error { _, err := d.Probe(ctx); return err },
		Start:  func() error { _, err := d.Start(ctx, c); return err },
		Dial:   func() error { _, err := m.Dial(ctx); return err },
		Pause:  func() error { return m.Pause(ctx) },
		Resume: func() error { return m.Resume(ctx) },
	} {
		d.Fail(step, fault)
		if err := call(); !errors.Is(err, fault) || api.ClassOf(err) != api.Internal {
			t.Errorf("%s: %v", step, err)
		}
		d.Fail(step, api.Errorf(api.Exhausted, "full"))
		if err := call(); !errors.Is(err, api.ErrExhausted) {
			t.Errorf("%s: %v", step, err)
		}
		d.Fail(step, nil)
		if err := call(); err != nil {
			t.Errorf("%s after the fault: %v", step, err)
		}
		if step == Start {
			d.Machine(c.Name).Kill()
		}
	}
}

// TestFailSaving is TestFail for the steps of a machine that is saved.
func TestFailSaving(t *testing.T) {
	d := &Driver{}
	c := config(t)
	c.Memory = &vmm.Memory{Path: write(t, "memory", "")}
	if err := os.Truncate(c.Memory.Path, int64(c.MemoryMiB)<<20); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	vm, err := d.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	m := vm.(vmm.Saver)
	if err := m.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	devices, filled := filepath.Join(t.TempDir(), "devices"), 0
	for _, s := range []struct {
		step Step
		call func() error
	}{
		{Fingerprint, func() error { _, err := d.Fingerprint(c); return err }},
		{Region, func() error { _, err := m.Region(); return err }},
		{Layer, func() error { return m.Layer(ctx, 1, write(t, "layer", "")) }},
		{Save, func() error { return m.SaveDevices(ctx, devices) }},
		{Load, func() error {
			c := c
			c.Restore = &vmm.Restore{Devices: devices, Fill: func(vmm.Region) error { filled++; return nil }}
			m, err := d.Start(ctx, c)
			if err == nil {
				m.Kill()
			}
			return err
		}},
	} {
		fault := errors.New("as told")
		d.Fail(s.step, fault)
		if err := s.call(); !errors.Is(err, fault) || api.ClassOf(err) != api.Internal {
			t.Errorf("%s: %v", s.step, err)
		}
		d.Fail(s.step, nil)
		if err := s.call(); err != nil {
			t.Errorf("%s after the fault: %v", s.step, err)
		}
	}
	if files := d.Machine(c.Name).Files(1); filled != 2 || d.Running() != 1 || len(files) != 1 {
		t.Errorf("filled %d times, %d machines run, the last one has %v", filled, d.Running(), files)
	}
}

func TestStall(t *testing.T) {
	d := &Driver{}
	m, err := d.Start(t.Context(), config(t))
	if err != nil {
		t.Fatal(err)
	}
	release := d.Stall(Pause)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := m.Pause(ctx); api.ClassOf(err) != api.Timeout {
		t.Errorf("stalled pause: %v", err)
	}
	paused := make(chan error)
	go func() { paused <- m.Pause(t.Context()) }()
	release()
	release()
	if err := <-paused; err != nil {
		t.Errorf("released pause: %v", err)
	}

	release = d.Stall(Kill)
	killed := make(chan struct{})
	go func() { m.Kill(); close(killed) }()
	select {
	case <-killed:
		t.Error("kill did not stall")
	case <-time.After(20 * time.Millisecond):
	}
	release()
	<-killed
}

func TestGuestActs(t *testing.T) {
	for name, act := range map[string]func(*Machine){
		"crash": (*Machine).Crash,
		"reset": func(m *Machine) { m.Reset("Kernel panic") },
		"off":   (*Machine).PowerOff,
	} {
		d := &Driver{}
		c := config(t)
		m, err := d.Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		act(d.Machine(c.Name))
		<-m.Done()
		if (m.Err() == nil) != (name == "off") {
			t.Errorf("%s: %v", name, m.Err())
		}
		if want := map[string]string{"reset": "Kernel panic"}[name]; m.LastWords() != want {
			t.Errorf("%s: last words %q", name, m.LastWords())
		}
	}
}

func TestHangUp(t *testing.T) {
	d := &Driver{}
	c := config(t)
	m, err := d.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	for i := range 3 {
		conn, err := m.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(conn, i)
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != fmt.Sprintln(i) {
			t.Errorf("%q, %v", line, err)
		}
		d.Machine(c.Name).HangUp()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection goes on")
		}
		conn.Close()
	}
}
