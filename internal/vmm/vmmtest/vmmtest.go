// Package vmmtest is the law of package vmm as a test suite, which every driver
// runs:
//
//	func TestMain(m *testing.M) { os.Exit(vmmtest.Main(m, &qemu.Driver{})) }
//
//	func TestVM(t *testing.T) {
//		vmmtest.Run(t, vmmtest.Harness{Driver: &qemu.Driver{}, Config: ...})
//	}
//
// A driver that boots real kernels uses the program in the directory testguest as
// the init of its guest.
package vmmtest

import (
	"context"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
)

// Harness is a driver and what the suite must know to try it.
type Harness struct {
	Driver vmm.Driver

	// Config returns a good Config with a fresh Dir, two CPUs and the disks "vda",
	// read-only, and "vdb", writable and twice as large, of a machine whose guest
	// does what testguest does. The name must be in no other process's arguments.
	Config func(t *testing.T) vmm.Config

	// Broken changes a good Config so that its guest prints text and then resets
	// itself, without an answer on the channel.
	Broken func(c *vmm.Config) (text string)

	// Refused changes a good Config so that it is still valid but the VMM refuses
	// to run it, and returns what is then in the error.
	Refused func(t *testing.T, c *vmm.Config) (text string)

	// Overlay makes a new file for Layer: for a disk of size bytes.
	Overlay func(t *testing.T, path string, size int64)

	// BootTime bounds the time from a machine's start to its guest's first answer,
	// and to its end. Zero means a minute: an emulated guest on a busy host.
	BootTime time.Duration
}

// Run runs all laws. It boots two guests; most laws look at the same one.
func Run(t *testing.T, h Harness) {
	if h.BootTime == 0 {
		h.BootTime = time.Minute
	}
	for _, law := range []struct {
		name string
		try  func(*testing.T, Harness)
	}{
		{"probe", probe},
		{"start refuses bad configs", badConfigs},
		{"start that is refused tells why", refused},
		{"start that is cancelled leaves nothing", cancelled},
		{"kill ends a machine at once", killed},
		{"methods may be called at once", atOnce},
		{"end of the VMM ends the machine", vmmDies},
		{"end of the starter ends the machine", starterDies},
		{"guest that resets itself ends the machine", reset},
		{"life of one machine", oneLife},
		{"saved machine continues", saving},
	} {
		t.Run(law.name, func(t *testing.T) { law.try(t, h) })
	}
}

// oneLife tries, in order, what can be tried on one machine: the last law ends it.
func oneLife(t *testing.T, h Harness) {
	r := look(t)
	c := h.Config(t)
	w := plug(t, &c)
	m := h.start(t, c)
	t.Run("info is complete", func(t *testing.T) { info(t, h, m, c) })
	t.Run("guest answers", func(t *testing.T) { answers(t, h, m) })
	t.Run("guest has its CPUs and disks", func(t *testing.T) { devices(t, h, m) })
	t.Run("guest's clock runs as ours", func(t *testing.T) { clock(t, h, m) })
	t.Run("one connection at a time", func(t *testing.T) { oneConnection(t, h, m) })
	t.Run("channel may be dialled again", func(t *testing.T) { dialAgain(t, h, m) })
	t.Run("dial does not outlive its context", func(t *testing.T) { dialCancelled(t, h, m) })
	t.Run("channel carries all bytes", func(t *testing.T) { allBytes(t, h, m) })
	t.Run("network card carries frames", func(t *testing.T) { frames(t, h, m, w) })
	t.Run("wire that nobody holds", func(t *testing.T) { deadWire(t, h, m, w) })
	t.Run("pause and resume", func(t *testing.T) { pauseResume(t, h, m) })
	t.Run("dial while paused", func(t *testing.T) { dialPaused(t, h, m) })
	t.Run("power off", func(t *testing.T) { powerOff(t, h, m) })
	r.same(t, c)
}

// start starts a machine that is killed at the end of the test at the latest.
func (h Harness) start(t *testing.T, c vmm.Config) vmm.Machine {
	t.Helper()
	m, err := h.Driver.Start(h.context(t), c)
	if c.Network != nil {
		c.Network.Wire.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	return m
}

// context returns a context bounded by the boot time.
func (h Harness) context(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), h.BootTime)
	t.Cleanup(cancel)
	return ctx
}

// ended waits for the machine's end.
func (h Harness) ended(t *testing.T, m vmm.Machine) {
	t.Helper()
	select {
	case <-m.Done():
	case <-h.context(t).Done():
		t.Fatalf("the machine has not ended\n%s", m.LastWords())
	}
}
