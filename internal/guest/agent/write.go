package agent

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/undo"
	"golang.org/x/sys/unix"
)

// defaultFileMode is the mode of a new file whose request names none.
const defaultFileMode = 0o644

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// write serves OpWrite.
func (a *Agent) write(s stream, req []byte) error {
	var r guest.Write
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	p, err := a.path(r.Path)
	if err != nil {
		return err
	}
	if err := checkMode(r.Mode); err != nil {
		return err
	}
	u, owned, err := a.owner(r.Owner)
	if err != nil {
		return err
	}
	w := writing{path: p, req: &r, data: &dataReader{s: s}}
	if owned {
		w.owner = &u
	}
	if err := w.run(); err != nil {
		return failed("write", r.Path, err)
	}
	info, err := a.fileInfo(p, true)
	if err != nil {
		return failed("write", r.Path, err)
	}
	info.Path = r.Path
	return s.reply(&info)
}

// writing is one write under way.
type writing struct {
	path  string // where links lead
	req   *guest.Write
	owner *user // nil: as it was, or root
	data  io.Reader
}

func (w *writing) run() error {
	if w.req.Parents {
		if err := makeParents(w.path, w.owner); err != nil {
			return err
		}
	}
	// Through a link, as any program writes: the link stays.
	if p, err := filepath.EvalSymlinks(w.path); err == nil {
		w.path = p
	} else if target, lerr := os.Readlink(w.path); lerr == nil {
		return api.Errorf(api.NotFound, "it is a link to %q, which does not exist", target)
	}
	var st unix.Stat_t
	err := unix.Stat(w.path, &st)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return syscall.EISDIR
	case err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || synthetic(w.path)):
		return w.direct(os.O_WRONLY)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case w.req.Append:
		return w.direct(os.O_WRONLY | os.O_APPEND | os.O_CREATE)
	case err == nil:
		return w.replace(&st)
	}
	return w.replace(nil)
}

// synthetic reports whether a path is in a file system of the kernel's own,
// whose files cannot be replaced.
func synthetic(path string) bool {
	var f unix.Statfs_t
	if unix.Statfs(path, &f) != nil {
		return false
	}
	switch f.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC:
		return true
	}
	return false
}

// direct writes into the file itself.
func (w *writing) direct(flag int) error {
	_, err := os.Lstat(w.path)
	fresh := errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(w.path, flag, defaultFileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, w.data)
	if err == nil && (fresh || w.req.Mode != 0 || w.owner != nil) {
		err = w.describe(f, nil)
	}
	return errors.Join(err, f.Close())
}

// replace writes a file beside the old one, then puts it in its place.
func (w *writing) replace(old *unix.Stat_t) error {
	var u undo.Stack
	defer u.Run()
	tmp := filepath.Join(filepath.Dir(w.path), ".smolvm-"+randomName())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	u.Add(func() { os.Remove(tmp) })
	_, err = io.Copy(f, w.data)
	if err == nil {
		err = w.describe(f, old)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, w.path); err != nil {
		return err
	}
	u.Success()
	return nil
}

// describe sets owner and mode, old's where the request names none.
func (w *writing) describe(f *os.File, old *unix.Stat_t) error {
	mode := uint32(defaultFileMode)
	if old != nil {
		mode = old.Mode & 0o7777
		if w.owner == nil {
			if err := f.Chown(int(old.Uid), int(old.Gid)); err != nil {
				return err
			}
		}
	}
	if w.owner != nil {
		if err := f.Chown(int(w.owner.uid), int(w.owner.gid)); err != nil {
			return err
		}
	}
	if w.req.Mode != 0 {
		mode = uint32(w.req.Mode)
	}
	return unix.Fchmod(int(f.Fd()), mode)
}

func randomName() string { return strconv.FormatUint(rand.Uint64(), 36) }
