package kernel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFetch takes the real package from the host's archive, once for all that
// can be seen on it.
func TestFetch(t *testing.T) {
	s := open(t)
	if _, err := Current(s); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("no kernel: %v; want unavailable", err)
	}
	k, err := Fetch(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if k.Meta.Package == "" || k.Meta.Version == "" || len(k.Meta.SHA256) != 64 {
		t.Errorf("incomplete record: %+v", k.Meta)
	}
	t.Run("verify", func(t *testing.T) {
		if err := k.Verify(); err != nil {
			t.Error(err)
		}
	})
	t.Run("order", func(t *testing.T) { checkOrder(t, k) })
	t.Run("nothing left in tmp", func(t *testing.T) { checkEmpty(t, s) })
	t.Run("again", func(t *testing.T) { checkAgain(t, s, k) })
	t.Run("damage", func(t *testing.T) { checkDamage(t, s, k) })
}

func checkOrder(t *testing.T, k Kernel) {
	var seen []string
	for _, m := range k.Meta.Modules {
		for _, d := range m.Depends {
			if !slices.Contains(seen, d) {
				t.Errorf("%s comes before %s, which it needs", m.Name, d)
			}
		}
		seen = append(seen, m.Name)
	}
	for _, name := range []string{"virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "net_failover", "overlay", "fuse"} {
		if !slices.Contains(k.Boot(), name) {
			t.Errorf("%s is not loaded at boot", name)
		}
	}
	for _, name := range []string{"erofs", "tun"} {
		if !slices.Contains(seen, name) || slices.Contains(k.Boot(), name) {
			t.Errorf("%s should be there for later", name)
		}
	}
}

func checkEmpty(t *testing.T, s store.Store) {
	left, err := os.ReadDir(s.Tmp())
	if err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// checkAgain makes the same kernel of the files, twice at once.
func checkAgain(t *testing.T, s store.Store, k Kernel) {
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			again, err := FromFiles(t.Context(), s, k.Vmlinux(), filepath.Join(k.Dir, modulesName), Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if again.ID != k.ID {
				t.Errorf("the same files gave another kernel, %s", again.ID)
			}
		})
	}
	wg.Wait()
	ks, err := List(s)
	if err != nil || len(ks) != 1 {
		t.Errorf("kernels: %v, %v; want one", ks, err)
	}
}

func checkDamage(t *testing.T, s store.Store, k Kernel) {
	if err := os.Chmod(k.Vmlinux(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(k.Vmlinux(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := k.Verify(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a changed byte: %v; want unavailable", err)
	}
	if err := errors.Join(f.Truncate(1<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Current(s); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a short file: %v; want unavailable", err)
	}
	if gone, err := GC(s, nil); err != nil || len(gone) != 0 {
		t.Errorf("gc took the current kernel: %v, %v", gone, err)
	}
}

func TestImportRefuses(t *testing.T) {
	s := open(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty := t.TempDir()
	for name, act := range map[string]func() error{
		"deb that is none": func() error {
			_, err := FromDeb(t.Context(), s, write("a.deb", "hello"), Options{})
			return err
		},
		"deb cut off": func() error {
			_, err := FromDeb(t.Context(), s, write("b.deb", arMagic+"data.tar.xz     0           0     0     100644  26000000  `\nxx"), Options{})
			return err
		},
		"missing file": func() error {
			_, err := FromDeb(t.Context(), s, filepath.Join(dir, "none.deb"), Options{})
			return err
		},
		"image that is none": func() error {
			_, err := FromFiles(t.Context(), s, write("c", "hello"), empty, Options{})
			return err
		},
		"image cut off": func() error {
			_, err := FromFiles(t.Context(), s, write("d", "\x7fELF"), empty, Options{})
			return err
		},
	} {
		if err := act(); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v; want invalid", name, err)
		}
	}
	checkEmpty(t, s)
	if ks, err := List(s); err != nil || len(ks) != 0 {
		t.Errorf("kernels: %v, %v; want none", ks, err)
	}
}

func TestFetchWithoutApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Fetch(context.Background(), open(t), Options{})
	if e := api.AsError(err); e.Code != "missing_dependency" || e.Recovery == "" {
		t.Errorf("%+v; want missing_dependency with the way out", e)
	}
}
