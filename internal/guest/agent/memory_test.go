package agent_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

const (
	bigFile = 2 << 30
	// maxRSS is what the agent may ever take, in KiB, whatever it moves.
	maxRSS = 40 << 10
)

// serveChild runs the real agent's binary as a child over a socket pair.
func serveChild(t *testing.T) (guest.Client, int) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "smolvm-agent")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/smolvm/smolvm/cmd/smolvm-agent").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	child, host := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "host")
	cmd := exec.Command(bin, "3")
	cmd.ExtraFiles = []*os.File{child}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child.Close()
	s, err := guest.Connect(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	return guest.Client{Opener: s}, cmd.Process.Pid
}

// peakRSS returns the most memory a process ever had, in KiB.
func peakRSS(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int
	fmt.Sscan(rest, &kib)
	return kib
}

// TestBigFile moves 2 GiB out, and some in.
func TestBigFile(t *testing.T) {
	c, pid := serveChild(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // with the race detector it takes half of it
	defer cancel()
	dir := t.TempDir()
	sparse := filepath.Join(dir, "sparse")
	f, err := os.Create(sparse)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(bigFile); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, r, err := c.ReadFile(ctx, guest.Read{Path: sparse})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n != bigFile {
		t.Errorf("%d bytes, %v", n, err)
	}
	r.Close()
	// Writing goes to a device, so that the test needs no disk.
	zeros := io.LimitReader(zeroReader{}, bigFile/4)
	if _, err := c.WriteFile(ctx, guest.Write{Path: "/dev/null"}, zeros); err != nil {
		t.Error(err)
	}
	if rss := peakRSS(t, pid); rss > maxRSS {
		t.Errorf("the agent took %d KiB", rss)
	} else {
		t.Logf("the agent took %d KiB", rss)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
