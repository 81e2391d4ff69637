package store

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// lockSuffix is the end of the name of an entry's lock file in Tmp.
const lockSuffix = ".lock"

// Scratch is a private directory in Tmp for something half made. It is locked
// for as long as its maker lives, so that SweepTmp knows what was abandoned.
type Scratch struct {
	dir  string
	lock *Lock
}

// Scratch makes a directory in Tmp whose name begins with prefix.
func (s Store) Scratch(prefix string) (*Scratch, error) {
	// A sweep may hold the new lock file for a moment; the next name is tried then.
	for range 10 {
		dir := filepath.Join(s.Tmp(), prefix+"-"+strings.ToLower(rand.Text()))
		l, err := TryLock(dir + lockSuffix)
		if errors.Is(err, api.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			os.Remove(dir + lockSuffix)
			l.Unlock()
			return nil, err
		}
		return &Scratch{dir, l}, nil
	}
	return nil, api.Errorf(api.Internal, "make a directory in %s: no free name", s.Tmp())
}

// Path returns the path of an entry of the directory; with no names the
// directory itself.
func (c *Scratch) Path(names ...string) string {
	return filepath.Join(append([]string{c.dir}, names...)...)
}

// Close removes the directory and all that is left in it. A second call does nothing.
func (c *Scratch) Close() error {
	if c.lock == nil {
		return nil
	}
	err := os.RemoveAll(c.dir)
	if err == nil {
		err = os.Remove(c.dir + lockSuffix)
	}
	c.lock.Unlock()
	c.lock = nil
	return err
}

// SweepTmp removes every entry of Tmp whose maker is dead and returns their
// names; with dryRun it only names them. It goes on after an error and returns
// all of them.
func (s Store) SweepTmp(dryRun bool) ([]string, error) {
	entries, err := os.ReadDir(s.Tmp())
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), lockSuffix)
		gone, err := s.sweep(filepath.Join(s.Tmp(), name), dryRun)
		errs = append(errs, err)
		if gone && !slices.Contains(swept, name) { // an entry has two names
			swept = append(swept, name)
		}
	}
	return swept, errors.Join(errs...)
}

// sweep removes one entry where nobody holds its lock. The lock is taken while
// it does, also for an entry without a lock file: its maker may be about to lock.
func (s Store) sweep(dir string, dryRun bool) (bool, error) {
	if _, err := os.Lstat(dir); err != nil {
		if _, err := os.Lstat(dir + lockSuffix); err != nil {
			return false, nil // done already, under the entry's other name
		}
	}
	if dryRun { // which must not make a lock file
		return !Locked(dir + lockSuffix), nil
	}
	l, err := TryLock(dir + lockSuffix)
	if errors.Is(err, api.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		return false, err
	}
	return true, os.Remove(dir + lockSuffix)
}

// SweepPoints removes what is left in Templates and Snapshots of points whose
// removal or making ended half-way, and the locks of templates that are not there.
// It returns their names; with dryRun it only names them.
func (s Store) SweepPoints(dryRun bool) ([]string, error) {
	var swept []string
	var errs []error
	for _, parent := range []string{s.Templates(), s.Snapshots()} {
		entries, err := os.ReadDir(parent)
		errs = append(errs, err)
		for _, e := range entries {
			path := strings.TrimSuffix(filepath.Join(parent, e.Name()), lockSuffix)
			if _, err := os.Stat(PointDir(path).Manifest()); err == nil || slices.Contains(swept, filepath.Base(path)) {
				continue
			}
			gone, err := s.sweep(path, dryRun)
			errs = append(errs, err)
			if gone {
				swept = append(swept, filepath.Base(path))
			}
		}
	}
	return swept, errors.Join(errs...)
}
