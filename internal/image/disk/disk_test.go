package disk

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestCreate(t *testing.T) {
	for _, size := range []int{MinMiB, 64, 10 * 1024} {
		path := filepath.Join(t.TempDir(), "disk.img")
		if err := Create(t.Context(), path, size); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Size() != int64(size)<<20 {
			t.Fatalf("size %v, %v; want %d MiB", st.Size(), err, size)
		}
		if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 8<<20 {
			t.Errorf("an empty disk of %d MiB takes %d bytes", size, used)
		}
		if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", path).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		checkHeader(t, path)
	}
}

// checkHeader looks for what a guest relies on.
func checkHeader(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("/usr/sbin/dumpe2fs", path).CombinedOutput()
	if err != nil {
		t.Fatalf("dumpe2fs: %v\n%s", err, out)
	}
	for _, want := range []string{"has_journal", "Reserved block count:     0", "Remount read-only", "ITABLE_ZEROED"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in the file system's header:\n%.2000s", want, out)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		path string
		size int
		want error
	}{
		{"too small", t.Context(), filepath.Join(dir, "a"), MinMiB - 1, api.ErrInvalid},
		{"negative", t.Context(), filepath.Join(dir, "a"), -1, api.ErrInvalid},
		{"too large", t.Context(), filepath.Join(dir, "a"), MaxMiB + 1, api.ErrInvalid},
		{"taken", t.Context(), taken, MinMiB, api.ErrUnavailable},
		{"no directory", t.Context(), filepath.Join(dir, "x", "y"), MinMiB, api.ErrUnavailable},
		{"ended", ended, filepath.Join(dir, "a"), MinMiB, context.Canceled},
	} {
		if err := Create(c.ctx, c.path, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", c.name, err, c.want)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if b, _ := os.ReadFile(taken); string(b) != "keep" {
		t.Errorf("an existing file was changed to %q", b)
	}
}

func TestToolOutsideOfPath(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if path, err := mkfs(); err != nil || path != "/usr/sbin/mkfs.ext4" {
		t.Errorf("%q, %v", path, err)
	}
}

func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		path := filepath.Join(dir, "d")
		if err := Create(b.Context(), path, 10*1024); err != nil {
			b.Fatal(err)
		}
		os.Remove(path)
	}
}
