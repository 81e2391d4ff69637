// Package qemu runs machines with QEMU: under KVM where the host has it, else
// under TCG, QEMU's emulation in software.
//
//	d := &qemu.Driver{}
//	m, err := d.Start(ctx, vmm.Config{...})
//	defer m.Kill()
//	conn, err := m.Dial(ctx)
//
// QEMU gets its sockets as open descriptors, starts no processes, needs no
// network, and dies with the process that started it. The guest's console is in
// the file console.log of the machine's directory; see [ConsoleLog].
package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu/qmp"
)

// Driver starts machines with QEMU. The zero value is ready.
type Driver struct {
	// Binary is QEMU's program. Empty means the one for this processor in $PATH.
	Binary string

	lap func(phase string) // told the phases of a restore; nil but in measurements
}

var _ vmm.Driver = (*Driver)(nil)

// Probe reports which QEMU and which accelerator machines get here.
func (d *Driver) Probe(ctx context.Context) (vmm.Capabilities, error) {
	c, err := d.Host(ctx)
	if err != nil {
		return c, err
	}
	version, err := binaryVersion(ctx, c.Binary)
	if err == nil {
		err = checkVersion(version)
	}
	if err != nil {
		return vmm.Capabilities{}, err
	}
	c.Version = "QEMU " + version.String()
	return c, nil
}

// Host reports which accelerator machines get here.
func (d *Driver) Host(context.Context) (vmm.Capabilities, error) {
	binary, err := d.binary()
	if err != nil {
		return vmm.Capabilities{}, err
	}
	c := vmm.Capabilities{Binary: binary, Accel: api.AccelKVM}
	if err := checkKVM(); err != nil {
		c.Accel, c.NoKVM = api.AccelTCG, err.Error()
	}
	c.Isolation = c.Accel.Isolation()
	return c, nil
}

// Start starts a machine.
func (d *Driver) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, startError(c.Name, err)
	}
	binary, err := d.binary()
	if err != nil {
		return nil, err
	}
	accel, err := resolve(c.Accel)
	if err != nil {
		return nil, err
	}
	if c, err = absolute(c); err != nil {
		return nil, startError(c.Name, err)
	}
	p := plan{Config: c, accel: accel, lap: d.lap}
	if c.Memory == nil {
		return start(ctx, binary, p, nil)
	}
	if p.print, err = fingerprint(binary, p); err != nil {
		return nil, err
	}
	if c.Restore == nil {
		return start(ctx, binary, p, nil)
	}
	state, err := openState(c.Restore.Devices, p.print)
	if err != nil {
		return nil, startError(c.Name, err)
	}
	defer state.Close()
	return start(ctx, binary, p, state)
}

// start starts QEMU. State is what it loads, or nil.
func start(ctx context.Context, binary string, p plan, state *os.File) (vmm.Machine, error) {
	var u undo.Stack
	defer u.Run()

	wires, err := newWires(p.Dir)
	if err != nil {
		return nil, startError(p.Name, err)
	}
	u.Add(wires.close)
	console, err := newConsole(p.Dir)
	if err != nil {
		return nil, startError(p.Name, err)
	}
	u.Add(console.remove)

	m := newMachine(p, wires, console)
	files := append(wires.theirs[:], state, p.wire()) // a nil is a descriptor that QEMU does not get
	m.process, err = startProcess(command(binary, p.args(), files, m.stderr))
	if err != nil {
		return nil, startError(p.Name, err)
	}
	u.Add(m.Kill)
	wires.closeTheirs()
	m.info.PID = m.process.pid()
	m.watch(wires.console)

	m.qmp, err = qmp.Connect(ctx, wires.qmp)
	p.reach("greeted")
	go m.run()
	if err != nil {
		return nil, m.refused(ctx, binary, err)
	}
	if err := checkVersion(m.qmp.Version()); err != nil {
		return nil, err
	}
	m.info.Version = "QEMU " + m.qmp.Version().String()
	if p.Restore != nil {
		if err := m.restore(ctx, p); err != nil {
			return nil, err
		}
	}
	u.Success()
	return m, nil
}

func newMachine(p plan, w *wires, c *console) *machine {
	m := &machine{
		name: p.Name, print: p.print, channel: w.path, console: c, stderr: new(tail),
		done: make(chan struct{}), loaded: make(chan string, 1), fresh: p.Restore != nil,
		info: vmm.Info{Accel: p.accel, Machine: p.machine(), Console: c.path, Started: time.Now()},
	}
	if p.Memory != nil {
		m.memory = p.Memory.Path
	}
	for i, d := range p.Disks {
		m.disks = append(m.disks, diskState{readOnly: d.ReadOnly, file: vmm.Layer{Path: d.Path, Format: d.Format}, top: topNode(i)})
	}
	return m
}

// refused makes the error of a QEMU that did not come up: that it is too old, if
// it is, else its own words.
func (m *machine) refused(ctx context.Context, binary string, err error) error {
	if !errors.Is(err, qmp.ErrClosed) {
		return startError(m.name, err)
	}
	if v, verr := binaryVersion(ctx, binary); verr == nil {
		if verr := checkVersion(v); verr != nil {
			return verr
		}
	}
	m.Kill() // it has closed its end, but may not have ended
	return api.Errorf(api.Unavailable, "start machine %q: qemu ended at once (%v)\n%s", m.name, m.process.state(), m.LastWords())
}

// startError says of err that it failed a start, and gives it a class if it has none.
func startError(name string, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return fmt.Errorf("start machine %q: %w", name, err)
	}
	return api.Errorf(classOf(err), "start machine %q: %w", name, err)
}

// classOf gives the end of a context its class. All else is a fault.
func classOf(err error) api.Class {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return api.Timeout
	case errors.Is(err, context.Canceled):
		return api.Unavailable
	}
	return api.Internal
}

// absolute returns c with paths that do not depend on a working directory.
func absolute(c vmm.Config) (vmm.Config, error) {
	paths := []*string{&c.Dir}
	if c.Restore == nil {
		paths = append(paths, &c.Kernel, &c.Initrd)
	}
	if c.Memory != nil {
		c.Memory = &vmm.Memory{Path: c.Memory.Path, Shared: c.Memory.Shared}
		paths = append(paths, &c.Memory.Path)
	}
	c.Disks = slices.Clone(c.Disks)
	for i := range c.Disks {
		d := &c.Disks[i]
		d.Backing = slices.Clone(d.Backing)
		paths = append(paths, &d.Path)
		for j := range d.Backing {
			paths = append(paths, &d.Backing[j].Path)
		}
	}
	for _, p := range paths {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	return c, nil
}

func (d *Driver) binary() (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", api.Errorf(api.Unavailable, "the QEMU driver does not know %s hosts yet", runtime.GOARCH)
	}
	name := d.Binary
	if name == "" {
		name = "qemu-system-x86_64"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", api.Errorf(api.Unavailable, "find QEMU: %w", err).
			WithCode("missing_dependency").WithRecovery("Run: smolvm setup")
	}
	return path, nil
}

// Oldest QEMU that works: 7.2 brought the stream network device and is what
// Debian 12 has, so it is tested.
const (
	minMajor = 7
	minMinor = 2
)

func checkVersion(v qmp.Version) error {
	if v.AtLeast(minMajor, minMinor) {
		return nil
	}
	return api.Errorf(api.Unavailable, "QEMU %s is too old, %d.%d or later is needed", v, minMajor, minMinor).
		WithCode("missing_dependency").WithRecovery("Install a newer QEMU, then run: smolvm doctor")
}

// binaryVersion asks a QEMU for its version.
func binaryVersion(ctx context.Context, binary string) (qmp.Version, error) {
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return qmp.Version{}, api.Errorf(api.Unavailable, "ask %s for its version: %w", binary, err).
			WithCode("missing_dependency").WithRecovery("Run: smolvm setup")
	}
	return parseVersion(string(out))
}

func parseVersion(out string) (v qmp.Version, err error) {
	_, err = fmt.Sscanf(out, "QEMU emulator version %d.%d.%d", &v.Major, &v.Minor, &v.Micro)
	if err != nil {
		err = api.Errorf(api.Unavailable, "read QEMU's version from %.80q: %w", out, err)
	}
	return v, err
}
