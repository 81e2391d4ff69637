package guestmem

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// target is memory of this process, between pages that must not change.
type target struct {
	machine
	before, mem, after []byte
}

func newTarget(tb testing.TB) target {
	tb.Helper()
	const room = chunkPages // pages on each side
	all, err := unix.Mmap(-1, 0, (testPages+2*room)*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Munmap(all) })
	a, b := room*pageSize, (room+testPages)*pageSize
	t := target{before: all[:a], mem: all[a:b], after: all[b:]}
	t.machine = machine{ownRegion(t.mem), tb, nil}
	return t
}

// saveBytes returns a file with content and zeros in several chunks.
func saveBytes(tb testing.TB, compress bool) []byte {
	tb.Helper()
	src := newTarget(tb)
	copy(src.mem[3*pageSize:], pattern(2, 1))
	copy(src.mem[9*pageSize:], make([]byte, pageSize))
	copy(src.mem[(chunkPages+4)*pageSize:], pattern(1, 2))
	copy(src.mem[(testPages-1)*pageSize:], pattern(1, 3))
	path, _, _ := src.save(Options{Compress: compress})
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// applyBytes applies a file of which nothing is known.
func (m target) applyBytes(b []byte) error {
	m.tb.Helper()
	path := filepath.Join(m.tb.TempDir(), "delta")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		m.tb.Fatal(err)
	}
	_, err := Apply(m.Region, []string{path}, true)
	if !allZero(m.before) || !allZero(m.after) {
		m.tb.Error("memory outside of the region was written")
	}
	return err
}

func TestCutFile(t *testing.T) {
	m := newTarget(t)
	for _, compress := range []bool{false, true} {
		good := saveBytes(t, compress)
		if err := m.applyBytes(good); err != nil {
			t.Fatal(err)
		}
		cuts := []int{0, 1, headerSize, headerSize + footerSize, len(good) - footerSize, len(good) - tableEntry, len(good) - 1}
		for n := 0; n < len(good); n += 97 {
			cuts = append(cuts, n)
		}
		for _, n := range cuts {
			if err := m.applyBytes(good[:n]); !errors.Is(err, api.ErrInvalid) {
				t.Errorf("cut to %d of %d bytes: %v", n, len(good), err)
			}
		}
		if err := m.applyBytes(append(bytes.Clone(good), 0)); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("with a byte more: %v", err)
		}
	}
}

func TestHostileFile(t *testing.T) {
	m := newTarget(t)
	good := saveBytes(t, false)
	foot := len(good) - footerSize
	table := int(le.Uint64(good[foot:]))
	second := table + tableEntry
	last := table + 2*tableEntry
	for name, change := range map[string]func(b []byte){
		"magic":             func(b []byte) { b[0]++ },
		"version":           func(b []byte) { b[8]++ },
		"page size":         func(b []byte) { le.PutUint32(b[12:], uint32(2*pageSize)) },
		"more memory":       func(b []byte) { le.PutUint64(b[16:], testPages+1) },
		"less memory":       func(b []byte) { le.PutUint64(b[16:], testPages-1) },
		"end mark":          func(b []byte) { b[len(b)-1]++ },
		"table elsewhere":   func(b []byte) { le.PutUint64(b[foot:], uint64(table-1)) },
		"table far":         func(b []byte) { le.PutUint64(b[foot:], math.MaxUint64) },
		"table in header":   func(b []byte) { le.PutUint64(b[foot:], 0) },
		"many entries":      func(b []byte) { le.PutUint64(b[foot+8:], math.MaxUint64/tableEntry+1) },
		"entry less":        func(b []byte) { le.PutUint64(b[foot+8:], 2) },
		"chunk far":         func(b []byte) { le.PutUint64(b[last:], math.MaxUint64) },
		"chunk beyond":      func(b []byte) { le.PutUint64(b[last:], 3) },
		"chunk twice":       func(b []byte) { le.PutUint64(b[second:], 0) },
		"content far":       func(b []byte) { le.PutUint64(b[table+8:], math.MaxUint64) },
		"content in table":  func(b []byte) { le.PutUint64(b[table+8:], uint64(table-headerSize)) },
		"content too long":  func(b []byte) { le.PutUint64(b[second+16:], uint64(2*pageSize)) },
		"content huge":      func(b []byte) { le.PutUint64(b[table+16:], math.MaxUint64) },
		"no content":        func(b []byte) { le.PutUint64(b[table+16:], 0) },
		"content is no zst": func(b []byte) { le.PutUint64(b[table+16:], 100) },
		"more pages":        func(b []byte) { b[table+24] |= 0x80 },
		"both":              func(b []byte) { b[table+24+chunkPages/8] |= b[table+24] },
		"pages beyond":      func(b []byte) { b[last+24] |= 0x80; b[last+24+chunkPages/8+5] |= 0x80 },
		"zeros beyond":      func(b []byte) { b[last+24+2*chunkPages/8-1] |= 0x80 },
	} {
		b := bytes.Clone(good)
		change(b)
		if bytes.Equal(b, good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := m.applyBytes(b); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostileFrame is about content that is far larger than it says.
func TestHostileFrame(t *testing.T) {
	m := newTarget(t)
	small, large := newTarget(t), newTarget(t)
	copy(small.mem, pattern(1, 1))
	copy(large.mem, bytes.Repeat([]byte{1}, chunkPages*pageSize))
	one, _, _ := small.save(Options{Compress: true})
	many, _, _ := large.save(Options{Compress: true})
	b, err1 := os.ReadFile(one)
	frame, err2 := os.ReadFile(many)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	at := len(frame) - footerSize - tableEntry
	frame = frame[headerSize:][:le.Uint64(frame[at+16:])]
	entry := b[len(b)-footerSize-tableEntry:][:tableEntry]
	if uint64(len(frame)) > le.Uint64(entry[16:]) {
		t.Fatal("the frame has no room where it is to go")
	}
	copy(b[headerSize:], frame)
	le.PutUint64(entry[16:], uint64(len(frame)))
	if err := m.applyBytes(b); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

// FuzzApply changes what is around the data: there a file could lead elsewhere.
func FuzzApply(f *testing.F) {
	var data [][]byte
	for packed, compress := range []bool{false, true} {
		b := saveBytes(f, compress)
		table := le.Uint64(b[len(b)-footerSize:])
		data = append(data, b[headerSize:table])
		f.Add(packed == 1, b[:24], b[table:])
	}
	m := newTarget(f)
	f.Fuzz(func(t *testing.T, packed bool, head, tail []byte) {
		b := make([]byte, headerSize)
		copy(b, head)
		if packed {
			b = append(b, data[1]...)
		} else {
			b = append(b, data[0]...)
		}
		m.tb = t
		if err := m.applyBytes(append(b, tail...)); err != nil && !errors.Is(err, api.ErrInvalid) {
			t.Error(err)
		}
	})
}
