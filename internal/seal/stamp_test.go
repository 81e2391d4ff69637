package seal

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

// stamped makes a file that was last written an hour ago, and its Stamp.
func stamped(t *testing.T) (string, Stamp) {
	t.Helper()
	path := write(t, "content")
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
	s, err := StampOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, s
}

func TestStampHolds(t *testing.T) {
	path, s := stamped(t)
	link := path + "2"
	moved := path + "3"
	if err := errors.Join(os.Link(path, link), os.Rename(path, moved), os.Chmod(moved, 0o400)); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back Stamp
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(link); err != nil || !s.Holds(link) || !back.Holds(moved) {
		t.Errorf("linked: %v; moved: %v; %v", s.Holds(link), back.Holds(moved), err)
	}
}

func TestStampDoesNotHold(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"written": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, werr := f.WriteAt([]byte("c"), 0) // what is there already
			return errors.Join(werr, f.Close())
		},
		"appended": func(path string) error { return os.Truncate(path, 8) },
		"touched":  func(path string) error { return os.Chtimes(path, time.Now(), time.Now()) },
		"removed":  os.Remove,
		"replaced": func(path string) error {
			fi, err := os.Stat(path)
			if err != nil {
				return err
			}
			other := filepath.Join(filepath.Dir(path), "other")
			return errors.Join(os.WriteFile(other, []byte("content"), 0o600),
				os.Chtimes(other, fi.ModTime(), fi.ModTime()), os.Rename(other, path))
		},
	} {
		path, s := stamped(t)
		if !s.Holds(path) {
			t.Fatal("a new stamp does not hold")
		}
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		if s.Holds(path) {
			t.Errorf("%s, and the stamp holds", name)
		}
	}
}

func TestStampOfAnotherBoot(t *testing.T) {
	path, s := stamped(t)
	if len(s.Boot) != 36 {
		t.Errorf("boot %q", s.Boot)
	}
	s.Boot = "2b1e4d5c-0000-4000-8000-000000000000"
	if s.Holds(path) || (Stamp{}).Holds(path) {
		t.Error("a stamp of another boot holds")
	}
}

func TestStampRefuses(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir(), "/dev/zero"} {
		if s, err := StampOf(path); !errors.Is(err, api.ErrUnavailable) || s != (Stamp{}) {
			t.Errorf("%s: %v, %v", path, s, err)
		}
	}
}

func BenchmarkStampHolds(b *testing.B) {
	path := write(b, "content")
	s, err := StampOf(path)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !s.Holds(path) {
			b.Fatal("does not hold")
		}
	}
}
