package vmmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// mark is how testguest's page of the command !mark begins.
const mark = "smolvm mark "

const pageSize = 4096

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustConflict(t *testing.T, act string, err error) {
	t.Helper()
	if err == nil || api.ClassOf(err) != api.Conflict {
		t.Errorf("%s: %v", act, err)
	}
}

func dialError(ctx context.Context, m vmm.Machine) error {
	c, err := m.Dial(ctx)
	if err == nil {
		c.Close()
	}
	return err
}

// expect sends a line whose answer is known. Much may have been done since the
// last one, so the time starts anew.
func (c *talk) expect(line, want string) {
	c.t.Helper()
	must(c.t, c.SetDeadline(time.Now().Add(c.limit)))
	c.send(line)
	if got := c.line(); got != want {
		c.t.Fatalf("the answer to %q is %q, want %q", line, got, want)
	}
}

func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, size))
}

// sum is what files hold.
type sum map[string][sha256.Size]byte

// sums looks at the files of s's disks, and at others that no machine may write
// that continues s.
func sums(t *testing.T, s saved, others ...string) sum {
	t.Helper()
	files := sum{}
	list := append(others, s.Restore.Devices)
	for _, d := range s.Disks {
		list = append(list, d.Path)
		for _, l := range d.Backing {
			list = append(list, l.Path)
		}
	}
	for _, path := range list {
		files[path] = digest(t, path)
	}
	return files
}

func (s sum) same(t *testing.T) {
	t.Helper()
	for path, want := range s {
		if digest(t, path) != want {
			t.Errorf("%s has changed", path)
		}
	}
}

// digest is a sum of what a file holds and where, without its holes: under
// emulation it is the most part of a law.
func digest(t *testing.T, path string) (d [sha256.Size]byte) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	for at := int64(0); ; {
		begin, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole from here on
			break
		}
		must(t, err)
		at, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		must(t, err)
		fmt.Fprintln(h, begin, at)
		_, err = io.Copy(h, io.NewSectionReader(f, begin, at-begin))
		must(t, err)
	}
	h.Sum(d[:0])
	return d
}

// pages are pages of guest memory by their offset.
type pages map[int64][]byte

// privatePages reads the pages of a machine's memory that are not those of the
// file behind it any more.
func privatePages(t *testing.T, m vmm.Saver, file string) pages {
	t.Helper()
	r, err := m.Region()
	must(t, err)
	if r.Addr%pageSize != 0 {
		t.Errorf("memory at %#x", r.Addr)
	}
	fi, err := os.Stat(file)
	must(t, err)
	if r.Size != fi.Size() {
		t.Fatalf("memory of %d bytes, its file has %d", r.Size, fi.Size())
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", r.PID))
	must(t, err)
	defer f.Close()
	table := make([]byte, r.Size/pageSize*8)
	_, err = f.ReadAt(table, int64(r.Addr/pageSize*8))
	must(t, err)
	found := pages{}
	for i := range r.Size / pageSize {
		const present, swapped, ofFile = 1 << 63, 1 << 62, 1 << 61
		if e := binary.LittleEndian.Uint64(table[i*8:]); e&(present|swapped) != 0 && e&ofFile == 0 {
			page := make([]byte, pageSize)
			must(t, transfer(unix.ProcessVMReadv, r, i*pageSize, page))
			found[i*pageSize] = page
		}
	}
	if len(found) == 0 {
		t.Error("a machine that ran has no page of its own")
	}
	return found
}

// replace changes how pages begin and returns how many it changed.
func (p pages) replace(old, new string) (n int) {
	for _, page := range p {
		if bytes.HasPrefix(page, []byte(old)) {
			copy(page, new)
			n++
		}
	}
	return n
}

// fill puts the pages into another machine's memory.
func (p pages) fill(r vmm.Region) error {
	for at, page := range p {
		if err := transfer(unix.ProcessVMWritev, r, at, page); err != nil {
			return err
		}
	}
	return nil
}

type vmCall func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error)

func transfer(call vmCall, r vmm.Region, at int64, page []byte) error {
	local := []unix.Iovec{{Base: &page[0]}}
	local[0].SetLen(len(page))
	n, err := call(r.PID, local, []unix.RemoteIovec{{Base: uintptr(r.Addr) + uintptr(at), Len: len(page)}}, 0)
	if err == nil && n != len(page) {
		err = io.ErrShortWrite
	}
	return err
}

// badStates are device states that must be refused.
func (h Harness) badStates(t *testing.T, s saved) {
	good, err := os.ReadFile(s.Restore.Devices)
	must(t, err)
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"cut in half":     func(b []byte) []byte { return b[:len(b)/2] },
		"last byte lost":  func(b []byte) []byte { return b[:len(b)-1] },
		"first byte lost": func(b []byte) []byte { return b[1:] },
		"longer":          func(b []byte) []byte { return append(b, 0) },
		"garbage":         func(b []byte) []byte { return bytes.Repeat([]byte{0xa5}, len(b)) },
		"first bit":       flip(0),
		"bit within":      flip(len(good) / 3),
		"another bit":     flip(len(good) / 2),
		"last bit":        flip(len(good) - 1),
	} {
		t.Run(name, func(t *testing.T) {
			c := h.clone(t, s)
			c.Restore.Devices = filepath.Join(t.TempDir(), "devices")
			must(t, os.WriteFile(c.Restore.Devices, spoil(slices.Clone(good)), 0o600))
			h.mustRefuseState(t, c)
		})
	}
	t.Run("of another machine", func(t *testing.T) {
		c := h.clone(t, s)
		c.CPUs++
		h.mustRefuseState(t, c)
	})
}

func (h Harness) mustRefuseState(t *testing.T, c vmm.Config) {
	t.Helper()
	r := look(t)
	err := h.mustRefuse(t, c, api.Invalid)
	if e := api.AsError(err); e.Code != vmm.CodeState {
		t.Errorf("code %q: %v", e.Code, err)
	}
	r.sameFiles(t, c)
}

// badRestores are changes that each make a good Config of a saved machine bad.
func (h Harness) badRestores(t *testing.T, s saved) {
	gone := filepath.Join(t.TempDir(), "gone")
	for name, spoil := range map[string]func(c *vmm.Config){
		"memory is missing":       func(c *vmm.Config) { c.Memory = &vmm.Memory{Path: gone} },
		"memory of another size":  func(c *vmm.Config) { c.MemoryMiB *= 2 },
		"no memory":               func(c *vmm.Config) { c.Memory = nil },
		"memory would be written": func(c *vmm.Config) { c.Memory = &vmm.Memory{Path: c.Memory.Path, Shared: true} },
		"no devices":              func(c *vmm.Config) { c.Restore.Devices = "" },
		"devices are missing":     func(c *vmm.Config) { c.Restore.Devices = gone },
		"layer is missing":        func(c *vmm.Config) { c.Disks[1].Backing = []vmm.Layer{{Path: gone, Format: vmm.Raw}} },
		"layer without format":    func(c *vmm.Config) { c.Disks[1].Backing[0].Format = "" },
		"layers below a raw file": func(c *vmm.Config) { c.Disks[1].Format = vmm.Raw },
	} {
		t.Run(name, func(t *testing.T) {
			c := h.clone(t, s)
			r, good := look(t), c
			spoil(&c)
			h.mustRefuse(t, c, api.Invalid)
			r.sameFiles(t, good)
		})
	}
}

func (h Harness) fillFails(t *testing.T, s saved) {
	r := look(t)
	c := h.clone(t, s)
	full := errors.New("no more pages")
	c.Restore.Fill = func(vmm.Region) error { return api.Errorf(api.Exhausted, "fill: %w", full) }
	if err := h.mustRefuse(t, c, api.Exhausted); !errors.Is(err, full) {
		t.Error(err)
	}
	r.sameFiles(t, c)
}
