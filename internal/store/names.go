package store

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
)

// A name is a symbolic link in names/ to the id that holds it. Links are made
// and removed under one lock; a link to a sandbox that is not there is stale
// (its maker died between link and directory) and counts as free.

func (s Store) lockNames() (*Lock, error) { return WaitLock(filepath.Join(s.Names(), ".lock")) }

// ByName returns the id that holds a name. Class NotFound where none does.
func (s Store) ByName(name string) (string, error) {
	id, err := os.Readlink(filepath.Join(s.Names(), name))
	if err == nil {
		_, err = os.Stat(string(s.Sandbox(id)))
	}
	if err != nil {
		return "", api.Errorf(api.NotFound, "find sandbox %q: there is none of that name", name).
			WithRecovery("List what there is with: smolvm ls")
	}
	return id, nil
}

// Publish moves a finished sandbox directory, which lies in tmp/, into place
// under a name: both or neither. Class Conflict where the name is taken.
func (s Store) Publish(dir, id, name string) error {
	l, err := s.lockNames()
	if err != nil {
		return err
	}
	defer l.Unlock()
	if err := s.link(id, name); err != nil {
		return err
	}
	if err := os.Rename(dir, string(s.Sandbox(id))); err != nil {
		os.Remove(filepath.Join(s.Names(), name))
		return err
	}
	return SyncDir(s.Sandboxes())
}

// Name gives a sandbox that is in place, and has none, a name. Class Conflict
// where it is taken.
func (s Store) Name(id, name string) error {
	l, err := s.lockNames()
	if err != nil {
		return err
	}
	defer l.Unlock()
	return s.link(id, name)
}

// Rename gives a sandbox another name. The caller then writes it into the
// record by write, under the same lock; if that fails the old name stays.
func (s Store) Rename(id, from, to string, write func() error) error {
	l, err := s.lockNames()
	if err != nil {
		return err
	}
	defer l.Unlock()
	if err := s.link(id, to); err != nil {
		return err
	}
	if err := write(); err != nil {
		os.Remove(filepath.Join(s.Names(), to))
		return err
	}
	return os.Remove(filepath.Join(s.Names(), from))
}

// NameFree refuses a name that is taken, with class Conflict. Only Publish, Name and
// Rename decide.
func (s Store) NameFree(name string) error {
	holder, err := s.ByName(name)
	if err != nil {
		return nil
	}
	return api.Errorf(api.Conflict, "name %q is taken by sandbox %s", name, holder).
		WithRecovery("Choose another name, or remove it with: smolvm rm %s", name)
}

func (s Store) link(id, name string) error {
	path := filepath.Join(s.Names(), name)
	if err := s.NameFree(name); err != nil {
		return err
	}
	os.Remove(path) // a stale link
	return os.Symlink(id, path)
}

// Unpublish takes a sandbox and its name out of sight at once and then removes
// its files. The caller holds the sandbox's lock or knows that nobody does. A
// sandbox that is gone already is no error.
func (s Store) Unpublish(id, name string) error {
	bin, err := s.Scratch("rm")
	if err != nil {
		return err
	}
	defer bin.Close()
	l, err := s.lockNames()
	if err != nil {
		return err
	}
	defer l.Unlock()
	if holder, err := os.Readlink(filepath.Join(s.Names(), name)); err == nil && holder == id {
		err = os.Remove(filepath.Join(s.Names(), name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	err = os.Rename(string(s.Sandbox(id)), bin.Path("sandbox"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// SweepNames removes links to sandboxes that are not there and returns the
// names. With dryRun it only names them.
func (s Store) SweepNames(dryRun bool) ([]string, error) {
	l, err := s.lockNames()
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	entries, err := os.ReadDir(s.Names())
	if err != nil {
		return nil, err
	}
	var gone []string
	var errs error
	for _, e := range entries {
		if e.Type()&os.ModeSymlink == 0 {
			continue
		}
		if _, err := s.ByName(e.Name()); err == nil {
			continue
		}
		gone = append(gone, e.Name())
		if !dryRun {
			errs = errors.Join(errs, os.Remove(filepath.Join(s.Names(), e.Name())))
		}
	}
	return gone, errs
}
