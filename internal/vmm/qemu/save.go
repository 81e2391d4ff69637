package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu/qmp"
)

var _ vmm.Saver = (*machine)(nil)

// mustBePaused refuses an act that needs a machine that stands still.
func (m *machine) mustBePaused(ctx context.Context, act string) error {
	var s struct{ Running bool }
	if err := m.query(ctx, act, "query-status", nil, &s); err != nil {
		return err
	}
	if s.Running {
		return api.Errorf(api.Conflict, "%s machine %q: it is running", act, m.name)
	}
	return nil
}

// SaveDevices writes the state of all devices to a new file.
func (m *machine) SaveDevices(ctx context.Context, path string) error {
	const act = "save the devices of"
	if m.memory == "" {
		return api.Errorf(api.Conflict, "%s machine %q: there is no file behind its memory", act, m.name)
	}
	if err := m.mustBePaused(ctx, act); err != nil {
		return err
	}
	var u undo.Stack
	defer u.Run()
	path, err := newFile(path)
	if err != nil {
		return api.Errorf(api.Unavailable, "%s machine %q: %w", act, m.name, err)
	}
	u.Add(func() { os.Remove(path) })
	// Not live: else QEMU lets go of the disks, in favour of a machine elsewhere.
	args := map[string]any{"filename": path, "live": false}
	if err := m.query(ctx, act, "xen-save-devices-state", args, nil); err != nil {
		return err
	}
	if err := seal(path, m.print); err != nil {
		return api.Errorf(api.Unavailable, "%s machine %q: %w", act, m.name, err)
	}
	u.Success()
	return nil
}

// newFile makes an empty file, and returns its path for a process with another
// working directory.
func newFile(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return path, f.Close()
}

// Region tells where guest memory lies in QEMU.
func (m *machine) Region() (vmm.Region, error) {
	if m.memory == "" {
		return vmm.Region{}, api.Errorf(api.Conflict, "find the memory of machine %q: there is no file behind it", m.name)
	}
	if m.process.hasEnded() {
		return vmm.Region{}, m.gone("find the memory of")
	}
	r, err := findRegion(m.process.pid(), m.memory)
	if err != nil {
		return r, api.Errorf(api.Internal, "find the memory of machine %q: %w", m.name, err)
	}
	return r, nil
}

// Layer puts a new file on top of a disk's.
func (m *machine) Layer(ctx context.Context, disk int, path string) error {
	const act = "put a layer on a disk of"
	if err := m.mustBePaused(ctx, act); err != nil {
		return err
	}
	m.layering.Lock()
	defer m.layering.Unlock()
	if disk < 0 || disk >= len(m.disks) || m.disks[disk].readOnly {
		return api.Errorf(api.Invalid, "%s machine %q: it has no writable disk %d", act, m.name, disk)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return api.Errorf(api.Internal, "%s machine %q: %w", act, m.name, err)
	}
	d := &m.disks[disk]
	if err := d.sameSize(path); err != nil {
		return api.Errorf(api.Invalid, "%s machine %q: %w", act, m.name, err)
	}
	nodes := layerNodes(fmt.Sprintf("%d.%d", disk, d.layers+1), vmm.Disk{Path: path, Format: vmm.Qcow2}, "")
	var u undo.Stack
	defer u.Run()
	for _, n := range nodes {
		if err := m.query(ctx, act, "blockdev-add", n, nil); err != nil {
			return badLayer(err)
		}
		u.Add(func() { m.dropNode(ctx, n.Name) })
	}
	top := nodes[len(nodes)-1].Name
	if err := m.query(ctx, act, "blockdev-snapshot", map[string]any{"node": d.top, "overlay": top}, nil); err != nil {
		return err
	}
	d.top = top
	d.layers++
	u.Success()
	return nil
}

// badLayer blames the file for QEMU's refusal to open it.
func badLayer(err error) error {
	var refusal *qmp.Error
	if errors.As(err, &refusal) {
		return api.Errorf(api.Invalid, "%w", err)
	}
	return err
}

// dropNode takes a node away that nothing uses.
func (m *machine) dropNode(ctx context.Context, name string) {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	m.qmp.Execute(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)
}

// sameSize refuses a layer that would make the guest's disk longer or shorter. It
// reads the files: QEMU tells sizes only with the names of all files below each one,
// for which a guest with a hundred layers would stand still for seconds.
func (d diskState) sameSize(path string) error {
	old, err := guestSize(d.file)
	if err != nil {
		return err
	}
	size, err := guestSize(vmm.Layer{Path: path, Format: vmm.Qcow2})
	if err == nil && size != old {
		err = fmt.Errorf("it has %d bytes, not %d", size, old)
	}
	return err
}

// guestSize is how many bytes a guest sees of a file.
func guestSize(l vmm.Layer) (int64, error) {
	f, err := os.Open(l.Path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if l.Format != vmm.Qcow2 {
		fi, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return (fi.Size() + sector - 1) / sector * sector, nil
	}
	// The magic number and the size; see docs/interop/qcow2.txt of QEMU.
	var h [32]byte
	if _, err := io.ReadFull(f, h[:]); err != nil || string(h[:4]) != "QFI\xfb" {
		return 0, fmt.Errorf("%s is no qcow2 file", l.Path)
	}
	return int64(binary.BigEndian.Uint64(h[24:])), nil
}

// sector is what the size of a disk is rounded up to.
const sector = 512
