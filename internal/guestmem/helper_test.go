package guestmem

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/vmm"
)

// helperFile names the file that the test binary, run as a machine, maps.
const helperFile = "GUESTMEM_HELPER_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(helperFile); path != "" {
		helper(path)
		return
	}
	os.Exit(m.Run())
}

// helper maps a file privately, as a VMM does, tells where, and stays until its
// input ends.
func helper(path string) {
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	fi, err := f.Stat()
	if err != nil {
		panic(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%p\n", &mem[0])
	io.Copy(io.Discard, os.Stdin)
}

// machine is a process that has memory like a VMM.
type machine struct {
	vmm.Region
	tb   testing.TB
	stop func() // may be called twice
}

// base makes a base file of so many pages, of which the first third is not zero.
func base(tb testing.TB, pages int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "base")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(pages * pageSize)); err != nil {
		tb.Fatal(err)
	}
	if _, err := f.Write(pattern(pages/3, 99)); err != nil {
		tb.Fatal(err)
	}
	return path
}

// start starts a machine over a base.
func start(tb testing.TB, base string) machine {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperFile+"="+base)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		tb.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	stop := func() {
		cmd.Process.Kill() // its input would end it too, but in a test for races only after a second
		cmd.Wait()
		in.Close()
	}
	tb.Cleanup(stop)
	var addr uint64
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, serr := fmt.Sscanf(line, "0x%x", &addr); err != nil || serr != nil {
		tb.Fatal(line, err, serr)
	}
	fi, err := os.Stat(base)
	if err != nil {
		tb.Fatal(err)
	}
	return machine{vmm.Region{PID: cmd.Process.Pid, Addr: addr, Size: fi.Size()}, tb, stop}
}

// write writes pages into the machine, as its guest would.
func (m machine) write(page int, data []byte) {
	m.tb.Helper()
	n, err := unix.ProcessVMWritev(m.PID, []unix.Iovec{vector(data)}, m.at(page, len(data)), 0)
	if err != nil || n != len(data) {
		m.tb.Fatalf("write %d bytes at page %d: %d, %v", len(data), page, n, err)
	}
}

// all reads the whole memory.
func (m machine) all() []byte { return m.read(0, int(m.Size)/pageSize) }

// read reads pages.
func (m machine) read(page, pages int) []byte {
	m.tb.Helper()
	buf := make([]byte, pages*pageSize)
	n, err := unix.ProcessVMReadv(m.PID, []unix.Iovec{vector(buf)}, m.at(page, len(buf)), 0)
	if err != nil || n != len(buf) {
		m.tb.Fatalf("read memory: %d, %v", n, err)
	}
	return buf
}

func (m machine) at(page, n int) []unix.RemoteIovec {
	return []unix.RemoteIovec{{Base: uintptr(m.Addr) + uintptr(page*pageSize), Len: n}}
}

// pattern is so many pages of bytes that look like a program's: half random, half
// zeros, no two pages the same.
func pattern(pages int, seed uint64) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, pages*pageSize)
	for at := 0; at < len(b); at += pageSize {
		r.Read(b[at : at+pageSize/2])
	}
	return b
}

// same fails the test with the first page that differs.
func same(tb testing.TB, got, want []byte) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	for at := 0; at < len(got); at += pageSize {
		if !bytes.Equal(got[at:at+pageSize], want[at:at+pageSize]) {
			tb.Fatalf("page %d differs", at/pageSize)
		}
	}
}
