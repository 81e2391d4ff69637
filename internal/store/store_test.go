package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func open(t *testing.T) Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOpenTakesItsPlaceFromTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, home, xdg, user, want string }{
		{"SMOLVM_HOME", dir + "/a", dir + "/x", dir, dir + "/a"},
		{"XDG", "", dir + "/x", dir, dir + "/x/smolvm"},
		{"relative XDG is ignored", "", "x", dir + "/u", dir + "/u/.local/state/smolvm"},
		{"home", "", "", dir, dir + "/.local/state/smolvm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(EnvHome, tt.home)
			t.Setenv("XDG_STATE_HOME", tt.xdg)
			t.Setenv("HOME", tt.user)
			s, err := Open("")
			if err != nil || s.Root() != tt.want {
				t.Fatalf("Open: %q, %v; want %q", s.Root(), err, tt.want)
			}
			st, err := os.Stat(s.Sandboxes())
			if err != nil || st.Mode().Perm() != 0o700 {
				t.Fatalf("sandboxes: %v, %v; want mode 0700", st, err)
			}
		})
	}
}

func TestOpenRefusesAnotherVersion(t *testing.T) {
	for _, v := range []string{"2\n", "0", "", "one"} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "version"), []byte(v), 0o600)
		if _, err := Open(dir); !errors.Is(err, api.ErrConflict) {
			t.Errorf("version %q: %v, want a conflict", v, err)
		}
	}
}

func TestReadJSONRefusesWhatItDoesNotKnow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.json")
	var v struct{ A int }
	for _, tt := range []struct{ text, want string }{
		{`{"A": 1, "B": 2}`, "unknown field"},
		{`{"A": `, "unexpected EOF"},
		{strings.Repeat(" ", maxJSON+1), "larger"},
	} {
		os.WriteFile(path, []byte(tt.text), 0o600)
		if err := ReadJSON(path, &v); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.20q: %v, want %q", tt.text, err, tt.want)
		}
	}
	if err := WriteJSON(path, map[string]int{"A": 7}); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &v); err != nil || v.A != 7 {
		t.Fatalf("read %v, %v", v, err)
	}
}

// publish makes a sandbox directory as a supervisor does.
func publish(s Store, id, name string) error {
	c, err := s.Scratch("create")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := os.Mkdir(c.Path("sandbox"), 0o700); err != nil {
		return err
	}
	return s.Publish(c.Path("sandbox"), id, name)
}

func TestPublishGivesANameOnce(t *testing.T) {
	s := open(t)
	errs := make([]error, 20)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = publish(s, fmt.Sprintf("id%d", i), "web") })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, api.ErrConflict) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Fatalf("%d of 20 got the name", won)
	}
	ids, _ := os.ReadDir(s.Sandboxes())
	tmp, _ := s.SweepTmp(true)
	if len(ids) != 1 || len(tmp) != 0 {
		t.Fatalf("left: sandboxes %v, tmp %v", ids, tmp)
	}
}

func TestNamesAreFreedAndStaleOnesTaken(t *testing.T) {
	s := open(t)
	if err := os.Symlink("dead", filepath.Join(s.Names(), "web")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ByName("web"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("a stale name: %v", err)
	}
	if err := publish(s, "one", "web"); err != nil {
		t.Fatal(err)
	}
	if id, err := s.ByName("web"); err != nil || id != "one" {
		t.Fatalf("web is %q, %v", id, err)
	}
	wrote := errors.New("cannot write")
	if err := s.Rename("one", "web", "api", func() error { return wrote }); !errors.Is(err, wrote) {
		t.Fatalf("rename: %v", err)
	}
	if id, _ := s.ByName("web"); id != "one" {
		t.Fatal("a rename that was not written took the old name")
	}
	if err := s.Rename("one", "web", "api", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Unpublish("one", "api"); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("gone", filepath.Join(s.Names(), "stale"))
	names, err := s.SweepNames(false)
	if err != nil || len(names) != 1 || names[0] != "stale" {
		t.Fatalf("swept %v, %v; want only the stale one", names, err)
	}
}

func TestLookingAtALockTakesItFromNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					Locked(path)
				}
			}
		})
	}
	for range 2000 {
		l, err := TryLock(path)
		if err != nil {
			t.Error(err)
			break
		}
		if !Locked(path) {
			t.Error("a held lock is not seen")
		}
		l.Unlock()
	}
	close(stop)
	wg.Wait()
	if Locked(path) {
		t.Error("a lock that was given back is seen")
	}
}

func TestWriteJSONRefusesWhatReadJSONWould(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.json")
	if err := WriteJSON(path, strings.Repeat("a", maxJSON)); !errors.Is(err, api.ErrExhausted) {
		t.Errorf("%v", err)
	}
	if err := WriteJSON(path, strings.Repeat("<", 1<<20)); err != nil {
		t.Error(err)
	}
	var s string
	if err := ReadJSON(path, &s); err != nil || len(s) != 1<<20 {
		t.Errorf("%d bytes, %v", len(s), err)
	}
}
