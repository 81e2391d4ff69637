// Package fake is a driver without virtual machines, for tests of what uses
// package vmm.
//
//	d := &fake.Driver{Guest: func(conn net.Conn) { io.Copy(conn, conn) }}
//	m, err := d.Start(ctx, config)
//	d.Fail(fake.Pause, errors.New("no"))  // every Pause fails until Fail(fake.Pause, nil)
//	release := d.Stall(fake.Dial)         // every Dial waits for release or its context
//	d.Machine("name").PowerOff()          // what a guest can do
//
// It obeys the whole contract but for this: a machine has no process, so its PID
// is 0 and it needs no kernel to run. It has no console log either. The files of
// its disks are whatever the guest makes of them; layers need not be qcow2.
//
// Saving and continuing is real as far as memory goes: the file of Config.Memory
// is mapped into this process, see [Machine.Memory]. What the guest function had
// in its variables is not saved: a restored machine calls it anew with each
// connection, as a guest is met that has just booted.
package fake

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Step names a call that can be told to fail or to stall.
type Step string

const (
	Probe  Step = "probe"
	Start  Step = "start"
	Dial   Step = "dial"
	Pause  Step = "pause"
	Resume Step = "resume"
	Kill   Step = "kill" // can only stall: it returns no error

	Fingerprint Step = "fingerprint" // cannot stall
	Load        Step = "load"        // of the devices at a Start with Restore, after Fill
	Save        Step = "save"        // SaveDevices
	Region      Step = "region"      // cannot stall
	Layer       Step = "layer"
)

// Version is the version that the fake reports.
const Version = "fake 1.0.0"

// Driver makes fake machines. The zero value is ready; its guest sends back what
// it receives. It must not be copied.
type Driver struct {
	// Guest is the guest: it is called for each connection of the channel, one
	// after the other, and must return when conn ends. Reads and writes block
	// while the machine is paused. Nil means an echo.
	Guest func(conn net.Conn)

	mu       sync.Mutex
	faults   map[Step]error
	stalls   map[Step]chan struct{}
	machines []*Machine
}

var _ vmm.Restorer = (*Driver)(nil)

// Fail makes every call of step fail with err, until it is called with nil. An
// error that is no *api.Error gets class Internal, as a driver would give it.
func (d *Driver) Fail(step Step, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.faults == nil {
		d.faults = map[Step]error{}
	}
	d.faults[step] = err
}

// Stall makes every call of step wait until release is called, which may be
// called twice, or until the call's context ends.
func (d *Driver) Stall(step Step) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stalls == nil {
		d.stalls = map[Step]chan struct{}{}
	}
	c := make(chan struct{})
	d.stalls[step] = c
	return sync.OnceFunc(func() { close(c) })
}

// at is called at the begin of each step.
func (d *Driver) at(ctx context.Context, step Step) error {
	d.mu.Lock()
	stall, fault := d.stalls[step], d.faults[step]
	d.mu.Unlock()
	err := context.Cause(ctx)
	if err == nil && stall != nil {
		select {
		case <-stall:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err == nil {
		err = fault
	}
	if err == nil {
		return nil
	}
	return api.Errorf(classOf(err), "%s: %w", step, err)
}

func classOf(err error) api.Class {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return api.Timeout
	case errors.Is(err, context.Canceled):
		return api.Unavailable
	}
	return api.ClassOf(err)
}

// Machine returns the newest machine of that name, which may have ended, and nil
// where there was none.
func (d *Driver) Machine(name string) *Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.machines) - 1; i >= 0; i-- {
		if d.machines[i].name == name {
			return d.machines[i]
		}
	}
	return nil
}

// Running returns how many machines have not ended.
func (d *Driver) Running() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, m := range d.machines {
		if !m.hasEnded() {
			n++
		}
	}
	return n
}

// Probe reports an emulating VMM.
func (d *Driver) Probe(ctx context.Context) (vmm.Capabilities, error) {
	if err := d.at(ctx, Probe); err != nil {
		return vmm.Capabilities{}, err
	}
	c := host()
	c.Version = Version
	return c, nil
}

// Host is Probe without the version, and fails and stalls with it.
func (d *Driver) Host(ctx context.Context) (vmm.Capabilities, error) {
	if err := d.at(ctx, Probe); err != nil {
		return vmm.Capabilities{}, err
	}
	return host(), nil
}

func host() vmm.Capabilities {
	return vmm.Capabilities{Accel: api.AccelTCG, Isolation: api.Emulated, NoKVM: "the machines are fake"}
}

// Start starts a machine. The accelerator KVM cannot be had.
func (d *Driver) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Accel == api.AccelKVM {
		return nil, api.Errorf(api.Unavailable, "start machine %q: the machines are fake", c.Name)
	}
	if err := d.at(ctx, Start); err != nil {
		return nil, err
	}
	m := &Machine{
		driver: d, name: c.Name, guest: d.Guest, ending: make(chan struct{}), done: make(chan struct{}),
		info: vmm.Info{Accel: api.AccelTCG, Machine: "fake", Version: Version, Started: time.Now()},
	}
	if m.guest == nil {
		m.guest = func(conn net.Conn) { io.Copy(conn, conn) }
	}
	m.gate.L = &m.mu
	if err := m.furnish(ctx, c); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.machines = append(d.machines, m)
	return m, nil
}
