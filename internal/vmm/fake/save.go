package fake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// disk is a disk as it is now.
type disk struct {
	readOnly bool
	files    []string // uppermost first
}

// Of returns the machine whose guest holds conn, and nil where conn is no guest's
// end of a channel.
func Of(conn net.Conn) *Machine {
	if g, ok := conn.(gated); ok {
		return g.m
	}
	return nil
}

// Memory is the guest's memory, for the guest: it must not be touched after the
// guest has returned or while the machine is paused. Nil where the Config has no
// Memory. The first page is the machine's own.
func (m *Machine) Memory() []byte { return m.memory }

// Wire is the guest's end of its network card, for the guest. Nil where there is no
// card.
func (m *Machine) Wire() net.Conn { return m.wire }

// Files are the files of a disk, the uppermost first. Nil where there is none.
func (m *Machine) Files(i int) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i < 0 || i >= len(m.disks) {
		return nil
	}
	return slices.Clone(m.disks[i].files)
}

// Fingerprint tells machines of different sizes apart. The accelerator KVM cannot
// be had.
func (d *Driver) Fingerprint(c vmm.Config) (string, error) {
	if err := d.at(context.Background(), Fingerprint); err != nil {
		return "", err
	}
	if c.Accel == api.AccelKVM {
		return "", api.Errorf(api.Unavailable, "the machines are fake")
	}
	return fingerprint(c), nil
}

func fingerprint(c vmm.Config) string {
	card := ""
	if c.Network != nil {
		card = fmt.Sprintf(", card %x", c.Network.MAC)
	}
	return fmt.Sprintf("%s, %d CPUs, %d MiB%s", Version, c.CPUs, c.MemoryMiB, card)
}

// furnish gives a new machine its memory and disks, and what it was saved with.
func (m *Machine) furnish(ctx context.Context, c vmm.Config) error {
	for _, d := range c.Disks {
		files := []string{d.Path}
		for _, l := range d.Backing {
			files = append(files, l.Path)
		}
		m.disks = append(m.disks, disk{readOnly: d.ReadOnly, files: files})
	}
	if err := m.plug(c.Network); err != nil {
		return api.Errorf(api.Internal, "start machine %q: plug its network card: %w", m.name, err)
	}
	if err := m.remember(ctx, c); err != nil {
		if m.wire != nil {
			m.wire.Close()
		}
		return err
	}
	return nil
}

// plug takes the machine's end of its network.
func (m *Machine) plug(n *vmm.Network) (err error) {
	if n != nil {
		m.wire, err = net.FileConn(n.Wire) // a copy
	}
	return err
}

// remember gives a new machine its memory.
func (m *Machine) remember(ctx context.Context, c vmm.Config) error {
	if c.Memory == nil {
		return nil
	}
	m.print = fingerprint(c)
	if c.Restore != nil {
		if err := checkDevices(c.Restore.Devices, m.print); err != nil {
			return fmt.Errorf("start machine %q: %w", m.name, err)
		}
		m.fresh, m.paused = true, true
	}
	if err := m.mapMemory(*c.Memory, c.MemoryMiB<<20); err != nil {
		return api.Errorf(api.Internal, "start machine %q: map its memory: %w", m.name, err)
	}
	if c.Restore == nil {
		copy(m.memory, "fake machine "+m.name+"\n")
		return nil
	}
	err := m.load(ctx, *c.Restore)
	if err != nil {
		m.unmap()
	}
	return err
}

func (m *Machine) mapMemory(mem vmm.Memory, size int) error {
	f, err := os.OpenFile(mem.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := unix.MAP_PRIVATE
	if mem.Shared {
		flags = unix.MAP_SHARED
	}
	m.memory, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	return err
}

func (m *Machine) unmap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.memory != nil {
		unix.Munmap(m.memory)
		m.memory = nil
	}
}

func (m *Machine) load(ctx context.Context, r vmm.Restore) error {
	if r.Fill != nil {
		if err := r.Fill(m.region()); err != nil {
			return fmt.Errorf("start machine %q: fill its memory: %w", m.name, err)
		}
	}
	if err := m.driver.at(ctx, Load); err != nil {
		return err
	}
	copy(m.memory, "fake machine "+m.name+"\n")
	return nil
}

func (m *Machine) region() vmm.Region {
	return vmm.Region{PID: os.Getpid(), Addr: uint64(uintptr(unsafe.Pointer(&m.memory[0]))), Size: int64(len(m.memory))}
}

// Region tells where the memory lies in this process.
func (m *Machine) Region() (vmm.Region, error) {
	if err := m.driver.at(context.Background(), Region); err != nil {
		return vmm.Region{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ended:
		return vmm.Region{}, m.gone("find the memory of")
	case m.memory == nil:
		return vmm.Region{}, m.withoutMemory("find the memory of")
	}
	return m.region(), nil
}

// SaveDevices writes a small file that says whose it is.
func (m *Machine) SaveDevices(ctx context.Context, path string) error {
	const act = "save the devices of"
	if err := m.driver.at(ctx, Save); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mustBePaused(act); err != nil {
		return err
	}
	if m.memory == nil {
		return m.withoutMemory(act)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return api.Errorf(api.Unavailable, "%s machine %q: %w", act, m.name, err)
	}
	defer f.Close()
	if _, err := f.Write(devices(m.print)); err != nil {
		os.Remove(path)
		return api.Errorf(api.Unavailable, "%s machine %q: %w", act, m.name, err)
	}
	return nil
}

// devices is the state of a fake machine's devices.
func devices(print string) []byte {
	text := "devices of a fake machine: " + print
	sum := sha256.Sum256([]byte(text))
	return []byte(text + "\n" + hex.EncodeToString(sum[:]) + "\n")
}

func checkDevices(path, print string) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return api.Errorf(api.Internal, "load the devices: %w", err)
	}
	if !bytes.Equal(got, devices(print)) {
		return api.Errorf(api.Invalid, "load the devices: they are damaged or another machine's").WithCode(vmm.CodeState)
	}
	return nil
}

// Layer puts a file on top of a disk's others.
func (m *Machine) Layer(ctx context.Context, i int, path string) error {
	const act = "put a layer on a disk of"
	if err := m.driver.at(ctx, Layer); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mustBePaused(act); err != nil {
		return err
	}
	if i < 0 || i >= len(m.disks) || m.disks[i].readOnly {
		return api.Errorf(api.Invalid, "%s machine %q: it has no writable disk %d", act, m.name, i)
	}
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return api.Errorf(api.Invalid, "%s machine %q: %s is no file", act, m.name, path)
	}
	m.disks[i].files = append([]string{path}, m.disks[i].files...)
	return nil
}

func (m *Machine) mustBePaused(act string) error {
	switch {
	case m.ended:
		return m.gone(act)
	case !m.paused:
		return api.Errorf(api.Conflict, "%s machine %q: it is running", act, m.name)
	}
	return nil
}

func (m *Machine) withoutMemory(act string) error {
	return api.Errorf(api.Conflict, "%s machine %q: there is no file behind its memory", act, m.name)
}
