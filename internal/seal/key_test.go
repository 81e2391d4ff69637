package seal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/api"
)

// keyFile names the key that the test binary prints, run as another process.
const keyFile = "SEAL_TEST_KEY_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(keyFile); path != "" {
		key, err := OpenKey(path)
		if err != nil {
			panic(err)
		}
		os.Stdout.Write(key[:])
		return
	}
	os.Exit(m.Run())
}

// TestFirstUsers lets processes, and goroutines of one, make the key at once.
func TestFirstUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const each = 8
	keys := make([][]byte, 2*each)
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), keyFile+"="+path)
			out, err := cmd.Output()
			if err != nil {
				t.Error(err)
			}
			keys[i] = out
		})
		wg.Go(func() {
			key, err := OpenKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[each+i] = key[:]
		})
	}
	wg.Wait()
	onDisk, err := os.ReadFile(path)
	if err != nil || len(onDisk) != KeySize || bytes.Equal(onDisk, make([]byte, KeySize)) {
		t.Fatalf("the file holds %d bytes, %v", len(onDisk), err)
	}
	for i, k := range keys {
		if !bytes.Equal(k, onDisk) {
			t.Errorf("user %d got another key", i)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestKeysDiffer(t *testing.T) {
	a, err1 := OpenKey(filepath.Join(t.TempDir(), "key"))
	b, err2 := OpenKey(filepath.Join(t.TempDir(), "key"))
	if err := errors.Join(err1, err2); err != nil || a == b {
		t.Errorf("two installations have one key, %v", err)
	}
}

// TestMakerWasKilled is about a maker who came no further than the empty file.
func TestMakerWasKilled(t *testing.T) {
	path := write(t, "")
	a, err1 := OpenKey(path)
	b, err2 := OpenKey(path)
	if err := errors.Join(err1, err2); err != nil || a != b || a == (Key{}) {
		t.Errorf("%v", err)
	}
}

func TestKeyRefuses(t *testing.T) {
	good := string(bytes.Repeat([]byte{7}, KeySize))
	mode := func(m fs.FileMode) string {
		path := write(t, good)
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(t.TempDir(), "link")
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := errors.Join(os.Symlink(write(t, good), link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		path string
		want error
	}{
		{"good", write(t, good), nil},
		{"group may read", mode(0o640), api.ErrDenied},
		{"all may read", mode(0o604), api.ErrDenied},
		{"group may write", mode(0o620), api.ErrDenied},
		{"short", write(t, good[1:]), api.ErrInvalid},
		{"long", write(t, good+"x"), api.ErrInvalid},
		{"zeros", write(t, string(make([]byte, KeySize))), api.ErrInvalid},
		{"link", link, api.ErrUnavailable},
		{"pipe", pipe, api.ErrUnavailable},
		{"directory", t.TempDir(), api.ErrUnavailable},
		{"no directory", filepath.Join(t.TempDir(), "x", "key"), api.ErrUnavailable},
	} {
		if _, err := OpenKey(c.path); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// write makes a file that only its owner can read.
func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
