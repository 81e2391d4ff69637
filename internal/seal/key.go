package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// KeySize is the size of a key in bytes: that of the hash, more adds nothing.
const KeySize = 32

// Key is an installation's key.
type Key [KeySize]byte

// String does not tell the key, so that no log does.
func (Key) String() string { return "seal.Key" }

// GoString is String, for the %#v verb.
func (Key) GoString() string { return "seal.Key" }

// OpenKey reads the key in a file, and makes it where there is none: of all who
// come first at once, one makes it and the others get the same. The directory
// must exist. Class Denied where others than the user may read or own the file,
// Invalid where it is no key, Unavailable where it cannot be read or made.
func OpenKey(path string) (Key, error) {
	key, err := openKey(path)
	var e *api.Error
	if err != nil && !errors.As(err, &e) {
		err = api.Errorf(api.Unavailable, "read key %q: %w", path, err)
	}
	return key, err
}

func openKey(path string) (Key, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	if err := private(f); err != nil {
		return Key{}, err
	}
	// The lock of the file itself, so that a maker who was killed leaves nothing
	// but an empty file, which the next one fills.
	err = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	if err != nil {
		return Key{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, KeySize+1))
	if err != nil {
		return Key{}, err
	}
	switch {
	case len(b) == 0:
		return makeKey(f)
	case len(b) != KeySize || Key(b) == Key{}:
		return Key{}, api.Errorf(api.Invalid, "read key %q: it is damaged", path).
			WithRecovery("Restore the file from a copy, or remove it: templates are then made anew, snapshots are lost.")
	}
	return Key(b), nil
}

// makeKey fills an empty file whose lock is held.
func makeKey(f *os.File) (Key, error) {
	var key Key
	rand.Read(key[:]) // never fails
	if _, err := f.WriteAt(key[:], 0); err != nil {
		return Key{}, err
	}
	// What is signed must not outlive the key in a power cut.
	return key, f.Sync()
}

// private refuses a file in which others may know or choose the key.
func private(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return fmt.Errorf("it is not a regular file")
	}
	if fi.Mode().Perm()&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return api.Errorf(api.Denied, "read key %q: others than you may read, write or own it (mode %04o, user %d)",
			f.Name(), fi.Mode().Perm(), st.Uid).
			WithRecovery("If nobody has read it, run: chmod 600 %s. Otherwise remove it: templates are then made anew, snapshots are lost.", f.Name())
	}
	return nil
}
