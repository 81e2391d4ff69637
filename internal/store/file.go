package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// maxJSON bounds a state file, so that a damaged one cannot eat memory. The
// largest holds an environment of 1 MiB, each byte of which JSON may write as six.
const maxJSON = 8 << 20

// WriteFile replaces a file: readers see the old content or the new, never a
// part, also after a power cut.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails, rightly, once renamed
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes renames and new names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteJSON replaces a file by v as indented JSON, readable by its owner alone.
func WriteJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if len(b) >= maxJSON {
		return api.Errorf(api.Exhausted, "write %s: %d bytes are more than %d", path, len(b), maxJSON)
	}
	return WriteFile(path, append(b, '\n'), 0o600)
}

// ReadJSON reads a file written by WriteJSON into v. Unknown fields are refused:
// a file from another version must not be half understood.
func ReadJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return err
	}
	if len(b) > maxJSON {
		return fmt.Errorf("%s: larger than %d bytes", path, maxJSON)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Lock is a held lock. It ends with Unlock or with the process, however that dies.
type Lock struct{ f *os.File }

// TryLock takes the exclusive lock of a file, which it makes where needed.
// Class Conflict where somebody else holds it.
func TryLock(path string) (*Lock, error) { return lock(path, unix.F_OFD_SETLK) }

// WaitLock is TryLock that waits for the holder to end.
func WaitLock(path string) (*Lock, error) { return lock(path, unix.F_OFD_SETLKW) }

// AwaitLock is TryLock that waits for the holder until ctx ends. It calls waiting,
// which may be nil, once where that takes longer than a moment. The kernel's own
// waiting could not be given up.
func AwaitLock(ctx context.Context, path string, waiting func()) (*Lock, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		l, err := TryLock(path)
		if !errors.Is(err, api.ErrConflict) {
			return l, err
		}
		if wait == 32*time.Millisecond && waiting != nil {
			waiting()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lock locks the file that has the path: one that another removed while this waited
// for its lock is nobody's any more, and the next is tried.
func lock(path string, how int) (*Lock, error) {
	for {
		l, err := lockOnce(path, how)
		if err != nil || sameFile(l.f, path) {
			return l, err
		}
		l.Unlock()
	}
}

func lockOnce(path string, how int) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.FcntlFlock(f.Fd(), how, &unix.Flock_t{Type: unix.F_WRLCK})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, api.Errorf(api.Conflict, "lock %s: held by another process", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// sameFile reports whether path still names the open file.
func sameFile(f *os.File, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Lstat(path, &b) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}

// Locked reports whether somebody holds the lock of a file. A file that is not
// there is not locked. It asks without taking the lock, unlike flock(2): who only
// looks must not make another's TryLock fail.
func Locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	return err == nil && l.Type != unix.F_UNLCK
}

// Note writes a text into the lock's file, for those who wonder who holds it.
func (l *Lock) Note(text string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(text), 0)
	return err
}

// Unlock gives the lock back. A second call does nothing.
func (l *Lock) Unlock() { l.f.Close() }
