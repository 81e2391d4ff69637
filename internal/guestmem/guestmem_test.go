package guestmem

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// testPages make three chunks, of which the last is short.
const testPages = 2*chunkPages + 37

// save captures a machine into a new file.
func (m machine) save(o Options) (path string, pages int, seen *Seen) {
	m.tb.Helper()
	d, seen, err := Capture(m.Region, o)
	if err != nil {
		m.tb.Fatal(err)
	}
	defer d.Close()
	path = filepath.Join(m.tb.TempDir(), "delta")
	if err := d.WriteFile(path); err != nil {
		m.tb.Fatal(err)
	}
	return path, d.Pages(), seen
}

// apply applies files to a machine.
func (m machine) apply(want bool, files ...string) *Seen {
	m.tb.Helper()
	seen, err := Apply(m.Region, files, want)
	if err != nil {
		m.tb.Fatal(err)
	}
	return seen
}

func TestCaptureAndApply(t *testing.T) {
	zeros := make([]byte, 3*pageSize)
	for _, c := range []struct {
		name  string
		write map[int][]byte // by page
		pages int
		data  int64 // pages of content in the file
	}{
		{"nothing", nil, 0, 0},
		{"first page", map[int][]byte{0: pattern(1, 1)}, 1, 1},
		{"last page", map[int][]byte{testPages - 1: pattern(1, 2)}, 1, 1},
		{"one byte at the end", map[int][]byte{testPages - 1: {7}}, 1, 1},
		{"all", map[int][]byte{0: pattern(testPages, 3)}, testPages, testPages},
		{"over the border of a chunk", map[int][]byte{chunkPages - 2: pattern(5, 4)}, 5, 5},
		{"every second page", scattered(), 64, 64},
		{"neighbouring runs", map[int][]byte{5: pattern(2, 6), 7: zeros, 10: pattern(3, 7)}, 8, 5},
		{"zeros over data of the base", map[int][]byte{1: zeros}, 3, 0},
		{"zeros over zeros", map[int][]byte{testPages - 3: zeros}, 3, 0},
	} {
		for _, compress := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				b := base(t, testPages)
				m, to := start(t, b), start(t, b)
				for page, data := range c.write {
					m.write(page, data)
				}
				path, pages, _ := m.save(Options{Compress: compress})
				if pages != c.pages {
					t.Errorf("%d pages were saved, want %d", pages, c.pages)
				}
				fi, err := os.Stat(path)
				if most := headerSize + c.data*int64(pageSize) + 3*tableEntry + footerSize; err != nil || fi.Size() > most {
					t.Errorf("the file has %d bytes, want at most %d, %v", fi.Size(), most, err)
				}
				to.apply(false, path)
				same(t, to.all(), m.all())
			})
		}
	}
}

// scattered are 64 single pages.
func scattered() map[int][]byte {
	w := map[int][]byte{}
	for i := range 64 {
		w[2*i+1] = pattern(1, uint64(i))
	}
	return w
}

func TestChain(t *testing.T) {
	b := base(t, testPages)
	m := start(t, b)
	var files []string
	var seen *Seen
	step := func(want int, writes map[int][]byte) {
		t.Helper()
		for page, data := range writes {
			m.write(page, data)
		}
		path, pages, next := m.save(Options{Since: seen, WantSeen: true})
		if pages != want {
			t.Errorf("step %d saved %d pages, want %d", len(files), pages, want)
		}
		files, seen = append(files, path), next
		to := start(t, b)
		to.apply(false, files...)
		same(t, to.all(), m.all())
	}
	old := m.all()[3*pageSize : 5*pageSize]
	step(20, map[int][]byte{3: pattern(20, 1)})
	step(0, nil)
	step(0, map[int][]byte{3: pattern(20, 1)}) // written, but the same
	step(1, map[int][]byte{8: {1}})
	step(2, map[int][]byte{9: make([]byte, 2*pageSize)})           // to zeros
	step(3, map[int][]byte{0: pattern(3, 5)})                      // private for the first time
	step(1, map[int][]byte{testPages - 1: make([]byte, pageSize)}) // zeros, and for the first time
	step(2, map[int][]byte{3: old})                                // back to what the base has
	step(1, map[int][]byte{10: pattern(1, 8)})                     // zeros to data
}

func TestChainGoesOnInAnotherMachine(t *testing.T) {
	b := base(t, testPages)
	m := start(t, b)
	m.write(3, pattern(20, 1))
	m.write(30, make([]byte, pageSize))
	first, _, _ := m.save(Options{})
	m.stop()
	clone := start(t, b)
	seen := clone.apply(true, first)
	if _, pages, _ := clone.save(Options{Since: seen}); pages != 0 {
		t.Errorf("a clone that wrote nothing differs in %d pages", pages)
	}
	clone.write(4, pattern(1, 2))
	clone.write(100, pattern(1, 3))
	second, pages, _ := clone.save(Options{Since: seen})
	if pages != 2 {
		t.Errorf("%d pages, want 2", pages)
	}
	to := start(t, b)
	to.apply(false, first, second)
	same(t, to.all(), clone.all())
}

// TestLarge is about a guest of 9 GiB, beyond what 32 bits can count.
func TestLarge(t *testing.T) {
	b := filepath.Join(t.TempDir(), "base")
	if err := BaseFile(b, 9<<10); err != nil {
		t.Fatal(err)
	}
	pages := 9 << 30 / pageSize
	m, to := start(t, b), start(t, b)
	places := []int{0, pages / 2, pages - 3}
	for i, page := range places {
		m.write(page, pattern(3, uint64(i)))
	}
	path, saved, seen := m.save(Options{WantSeen: true})
	if saved != 9 {
		t.Errorf("%d pages were saved, want 9", saved)
	}
	m.write(pages-1, []byte{1})
	second, saved, _ := m.save(Options{Since: seen})
	if saved != 1 {
		t.Errorf("%d pages were saved, want 1", saved)
	}
	to.apply(true, path, second)
	for _, page := range places {
		same(t, to.read(page, 3), m.read(page, 3))
	}
}

// TestGivenBack covers pages that were private and are the base's again.
func TestGivenBack(t *testing.T) {
	b := base(t, testPages)
	f, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, testPages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	m := machine{ownRegion(mem), t, nil}
	copy(mem[pageSize:], pattern(8, 1))
	first, _, seen := m.save(Options{WantSeen: true})
	if err := unix.Madvise(mem[2*pageSize:4*pageSize], unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	second, pages, seen := m.save(Options{Since: seen, WantSeen: true})
	if pages != 2 {
		t.Errorf("%d pages differ, want 2", pages)
	}
	to := start(t, b)
	to.apply(false, first, second)
	same(t, to.all(), m.all())
	if _, pages, _ := m.save(Options{Since: seen}); pages != 0 {
		t.Errorf("%d pages differ afterwards", pages)
	}
}

func TestSpill(t *testing.T) {
	for _, c := range []struct {
		name     string
		room     int // pages in memory
		compress bool
		rename   bool
	}{
		{"all in the file", 0, false, false},
		{"a part in the file", chunkPages + 50, false, false},
		{"compressed", chunkPages + 50, true, false},
		{"renamed", chunkPages + 50, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := base(t, testPages)
			m, to := start(t, b), start(t, b)
			m.write(0, pattern(testPages, 1))
			o := Options{Buffer: small(t, m, c.room), Spill: filepath.Join(t.TempDir(), "delta"), Compress: c.compress}
			defer o.Buffer.Close()
			d, _, err := Capture(m.Region, o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(o.Spill); err != nil {
				t.Error(err)
			}
			path := o.Spill
			if c.rename {
				path += "2"
			}
			if err := d.WriteFile(path); err != nil {
				t.Fatal(err)
			}
			to.apply(false, path)
			same(t, to.all(), m.all())
			d.Close()
			if _, err := os.Stat(path); err != nil {
				t.Errorf("a finished file went with the buffer: %v", err)
			}
		})
	}
}

// small is a buffer with room for so many pages.
func small(t *testing.T, m machine, pages int) *Buffer {
	t.Helper()
	b, err := Prepare(m.Region, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.mem = b.mem[: pages*pageSize : len(b.mem)]
	return b
}

func TestSpillUndone(t *testing.T) {
	m := start(t, base(t, testPages))
	m.write(0, pattern(testPages, 1))
	b := small(t, m, 10)
	defer b.Close()
	if _, _, err := Capture(m.Region, Options{Buffer: b}); !errors.Is(err, api.ErrExhausted) {
		t.Errorf("without a file to spill to: %v", err)
	}
	b = small(t, m, 10)
	spill := filepath.Join(t.TempDir(), "delta")
	if _, _, err := Capture(m.Region, Options{Buffer: b, Spill: spill}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	b.Close()
	if _, err := os.Stat(spill); !os.IsNotExist(err) {
		t.Errorf("an unfinished file is left: %v", err)
	}
	if _, _, err := Capture(m.Region, Options{Buffer: b}); !errors.Is(err, api.ErrInternal) {
		t.Errorf("into a closed buffer: %v", err)
	}
}

func TestOwnProcess(t *testing.T) {
	mem, err := unix.Mmap(-1, 0, testPages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	copy(mem[50*pageSize:], pattern(3, 1))
	path, pages, _ := machine{ownRegion(mem), t, nil}.save(Options{})
	if pages != 3 {
		t.Errorf("%d pages, want 3", pages)
	}
	want := bytes.Clone(mem)
	clear(mem)
	machine{ownRegion(mem), t, nil}.apply(false, path)
	same(t, mem, want)
}

func ownRegion(mem []byte) vmm.Region {
	v := vector(mem)
	return vmm.Region{PID: os.Getpid(), Addr: uint64(uintptr(unsafe.Pointer(v.Base))), Size: int64(len(mem))}
}

func TestPrivateEntries(t *testing.T) {
	for entry, want := range map[uint64]bool{
		0:                         false,
		pageOfFile:                false,
		pagePresent:               true,
		pagePresent | pageOfFile:  false,
		pageSwapped:               true,
		pageSwapped | 12<<5:       true,
		pageSwapped | pageOfFile:  false,
		pagePresent | 1<<56 | 123: true, // mapped exclusively, with a frame number
		1<<55 | 1<<56:             false,
	} {
		if got := isPrivate(entry); got != want {
			t.Errorf("%#x: %v, want %v", entry, got, want)
		}
	}
}

func TestRuns(t *testing.T) {
	for _, c := range []struct {
		pages []int
		runs  [][2]int
	}{
		{nil, nil},
		{[]int{0}, [][2]int{{0, 1}}},
		{[]int{127}, [][2]int{{127, 1}}},
		{[]int{62, 63, 64, 65, 70}, [][2]int{{62, 4}, {70, 1}}},
	} {
		var set pageSet
		for _, i := range c.pages {
			set.add(i)
		}
		var runs [][2]int
		for first, n := range set.runs() {
			runs = append(runs, [2]int{first, n})
		}
		if !slices.Equal(runs, c.runs) || set.count() != len(c.pages) {
			t.Errorf("%v: runs %v, want %v", c.pages, runs, c.runs)
		}
	}
}

func TestRefuses(t *testing.T) {
	m := start(t, base(t, testPages))
	m.write(0, pattern(2, 1))
	_, _, other := start(t, base(t, 2*testPages)).save(Options{WantSeen: true})
	good := m.Region
	page := int64(pageSize)
	for _, c := range []struct {
		name string
		r    vmm.Region
		o    Options
		want error
	}{
		{"no process", vmm.Region{Addr: good.Addr, Size: good.Size}, Options{}, api.ErrInvalid},
		{"odd address", vmm.Region{PID: good.PID, Addr: good.Addr + 1, Size: good.Size}, Options{}, api.ErrInvalid},
		{"odd size", vmm.Region{PID: good.PID, Addr: good.Addr, Size: good.Size + 1}, Options{}, api.ErrInvalid},
		{"no size", vmm.Region{PID: good.PID, Addr: good.Addr}, Options{}, api.ErrInvalid},
		{"huge", vmm.Region{PID: good.PID, Addr: good.Addr, Size: math.MaxInt64 &^ (page - 1)}, Options{}, api.ErrInvalid},
		{"another's seen", good, Options{Since: other}, api.ErrInvalid},
	} {
		if _, _, err := Capture(c.r, c.o); !errors.Is(err, c.want) {
			t.Errorf("capture, %s: %v, want %v", c.name, err, c.want)
		}
		if c.o.Since == nil {
			if _, err := Apply(c.r, nil, false); !errors.Is(err, c.want) {
				t.Errorf("apply, %s: %v, want %v", c.name, err, c.want)
			}
		}
	}
}

func TestUnmapped(t *testing.T) {
	b := base(t, testPages)
	m := start(t, b)
	m.write(0, pattern(2, 1))
	path, _, _ := m.save(Options{})
	gone := m.Region
	gone.Addr = 1 << 20 // nothing is mapped there
	if _, err := Apply(gone, []string{path}, false); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("apply where nothing is mapped: %v", err)
	}
	m.stop()
	if _, _, err := Capture(m.Region, Options{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("capture of a process that ended: %v", err)
	}
	if _, err := Apply(m.Region, []string{path}, false); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("apply to a process that ended: %v", err)
	}
	if _, err := Apply(start(t, b).Region, []string{path + "x"}, false); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestWriteFileRefuses(t *testing.T) {
	m := start(t, base(t, testPages))
	m.write(0, pattern(2, 1))
	d, _, err := Capture(m.Region, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	taken := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(taken, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile(taken); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("onto a file: %v", err)
	}
	if got, _ := os.ReadFile(taken); string(got) != "keep" {
		t.Errorf("an existing file was changed to %q", got)
	}
}

func TestBaseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	if err := BaseFile(path, 512); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Size() != 512<<20 || fi.Sys().(*syscall.Stat_t).Blocks != 0 || fi.Mode().Perm() != 0o600 {
		t.Errorf("%+v, %v", fi, err)
	}
	if err := BaseFile(path, 512); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("taken: %v", err)
	}
	for _, mib := range []int{0, -1, math.MaxInt} {
		if err := BaseFile(path+"x", mib); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%d MiB: %v", mib, err)
		}
	}
}

func TestCompressIsSmaller(t *testing.T) {
	m := start(t, base(t, testPages))
	m.write(0, pattern(chunkPages, 1))
	path, _, _ := m.save(Options{Compress: true})
	fi, err := os.Stat(path)
	if err != nil || fi.Size() > chunkPages*int64(pageSize)*6/10 {
		t.Errorf("%d bytes for %d pages that are half zeros, %v", fi.Size(), chunkPages, err)
	}
}
