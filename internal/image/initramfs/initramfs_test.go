package initramfs

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fake makes a kernel of two small modules, as package kernel would record it.
func fake(t *testing.T) (store.Store, kernel.Kernel) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k := kernel.Kernel{ID: strings.Repeat("ab", 32), Dir: filepath.Join(s.Kernels(), "fake")}
	if err := os.MkdirAll(filepath.Join(k.Dir, "modules"), 0o700); err != nil {
		t.Fatal(err)
	}
	add := func(name, content, sum string, deps ...string) {
		if err := os.WriteFile(k.Module(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		k.Meta.Modules = append(k.Meta.Modules, kernel.Module{
			Name: name, Depends: deps, File: kernel.File{Size: int64(len(content)), SHA256: sum},
		})
	}
	add("overlay", "one", "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed")
	add("later", "three", "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f", "overlay")
	return s, k
}

// entries reads a newc archive, which the tests do not leave to the code that writes it.
func entries(t *testing.T, b []byte) string {
	t.Helper()
	var out strings.Builder
	for len(b) > 0 {
		if len(b) < 110 || string(b[:6]) != "070701" {
			t.Fatalf("no header at %.20q", b)
		}
		num := func(i int) int {
			n, err := strconv.ParseInt(string(b[6+8*i:14+8*i]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		nameEnd := 110 + num(11)
		start := (nameEnd + 3) &^ 3
		end := start + num(6)
		name := strings.TrimSuffix(string(b[110:nameEnd]), "\x00")
		fmt.Fprintf(&out, "%s ino=%d mode=%o uid=%d gid=%d links=%d mtime=%d %q\n",
			name, num(0), num(1), num(2), num(3), num(4), num(5), b[start:end])
		b = b[(end+3)&^3:]
		if name == "TRAILER!!!" && len(b) > 0 {
			t.Fatalf("%d bytes after the end mark", len(b))
		}
	}
	return out.String()
}

func TestBuild(t *testing.T) {
	s, k := fake(t)
	path, err := Build(s, k, []byte("agent!"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "initramfs.golden")
	got := entries(t, b)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("got:\n%s\nwant (%v):\n%s", got, err, want)
	}
	again, err := Build(s, k, []byte("agent!"))
	if err != nil || again != path {
		t.Errorf("again: %s, %v", again, err)
	}
	other, err := Build(s, k, []byte("other!"))
	if err != nil || other == path {
		t.Errorf("another agent: %s, %v", other, err)
	}
	os.Remove(path)
	if path, err = Build(s, k, []byte("agent!")); err != nil {
		t.Fatal(err)
	}
	if c, err := os.ReadFile(path); err != nil || !bytes.Equal(b, c) {
		t.Errorf("the same inputs gave other bytes, %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	s, k := fake(t)
	if _, err := Build(s, k, nil); !errors.Is(err, api.ErrInternal) {
		t.Errorf("no agent: %v", err)
	}
	if err := os.WriteFile(k.Module("overlay"), []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(s, k, []byte("agent")); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a changed module: %v", err)
	}
	if left, err := os.ReadDir(s.Tmp()); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

func TestGC(t *testing.T) {
	s, k := fake(t)
	if gone, err := GC(s); err != nil || len(gone) != 0 {
		t.Errorf("nothing there: %v, %v", gone, err)
	}
	old, err := Build(s, k, []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := Build(s, k, []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * unused)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	gone, err := GC(s)
	if err != nil || len(gone) != 1 || gone[0] != old {
		t.Errorf("removed %v, %v", gone, err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error(err)
	}
}
