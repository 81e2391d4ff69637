package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// fileOperation returns the function of an operation on files or the machine.
func (a *Agent) fileOperation(op guest.Op) func(stream, []byte) error {
	switch op {
	case guest.OpStat:
		return a.stat
	case guest.OpList:
		return a.list
	case guest.OpMkdir:
		return command(a.mkdir)
	case guest.OpRemove:
		return command(a.remove)
	case guest.OpRename:
		return command(a.rename)
	case guest.OpRead:
		return a.read
	case guest.OpWrite:
		return a.write
	case guest.OpTarOut:
		return a.tarOut
	case guest.OpTarIn:
		return a.tarIn
	case guest.OpWatch:
		return a.watch
	case guest.OpMark:
		return command(func(guest.Empty) error { return a.setMark() })
	case guest.OpChanges:
		return a.changes
	case guest.OpTree:
		return a.tree
	case guest.OpShutdown:
		return a.shutdown
	}
	return nil
}

// stat serves OpStat.
func (a *Agent) stat(s stream, req []byte) error {
	var r guest.Path
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	p, err := a.path(r.Path)
	if err != nil {
		return err
	}
	info, err := a.fileInfo(p, !r.NoFollow)
	if err != nil {
		return failed("look at", r.Path, err)
	}
	info.Path = r.Path
	return s.reply(&info)
}

// fileInfo describes a file.
func (a *Agent) fileInfo(path string, follow bool) (guest.FileInfo, error) {
	var st unix.Stat_t
	look := unix.Lstat
	if follow {
		look = unix.Stat
	}
	if err := look(path, &st); err != nil {
		return guest.FileInfo{}, err
	}
	info := infoOf(&st)
	info.User, info.Group = a.users.names(info.UID, info.GID)
	if info.Type == "symlink" {
		info.Target, _ = os.Readlink(path)
	}
	return info, nil
}

func infoOf(st *unix.Stat_t) guest.FileInfo {
	return guest.FileInfo{
		Type: typeOf(st.Mode), Size: st.Size, Mode: int(st.Mode & 0o7777),
		UID: int(st.Uid), GID: int(st.Gid), MTimeNS: st.Mtim.Nano(),
	}
}

func typeOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "symlink"
	}
	return "other"
}

const (
	// maxList bounds the entries of a directory that are listed.
	maxList = 1 << 20
	// listPart is how many entries go into one reply.
	listPart = 256
)

// list serves OpList.
func (a *Agent) list(s stream, req []byte) error {
	var r guest.Path
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	p, err := a.path(r.Path)
	if err != nil {
		return err
	}
	names, err := readNames(p)
	if err != nil {
		return failed("list", r.Path, err)
	}
	if len(names) > maxList {
		return api.Errorf(api.Exhausted, "list %q: it has more than %d entries", r.Path, maxList)
	}
	slices.Sort(names)
	for part := range slices.Chunk(names, listPart) {
		var l guest.FileList
		for _, name := range part {
			info, err := a.fileInfo(filepath.Join(p, name), false)
			if err != nil {
				continue // removed meanwhile
			}
			info.Path = name
			l.Files = append(l.Files, info)
		}
		if err := s.reply(&l); err != nil {
			return err
		}
	}
	return nil
}

// owner looks an owner up; ok is false where none is given.
func (a *Agent) owner(spec string) (u user, ok bool, err error) {
	if spec == "" {
		return user{}, false, nil
	}
	u, err = a.users.lookup(spec)
	return u, true, err
}

// checkMode refuses what chmod(2) does not know.
func checkMode(mode int) error {
	if mode < 0 || mode > 0o7777 {
		return api.Errorf(api.Invalid, "mode %#o is not between 0 and 07777", mode)
	}
	return nil
}

// defaultDirMode is the mode of a directory whose request names none.
const defaultDirMode = 0o755

// mkdir serves OpMkdir.
func (a *Agent) mkdir(r guest.Mkdir) error {
	p, err := a.path(r.Path)
	if err != nil {
		return err
	}
	if err := checkMode(r.Mode); err != nil {
		return err
	}
	if r.Mode == 0 {
		r.Mode = defaultDirMode
	}
	u, owned, err := a.owner(r.Owner)
	if err != nil {
		return err
	}
	var o *user
	if owned {
		o = &u
	}
	if r.Parents {
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			return nil
		}
		if err := makeParents(p, o); err != nil {
			return failed("make directory", r.Path, err)
		}
	}
	if err := makeDir(p, uint32(r.Mode), o); err != nil {
		return failed("make directory", r.Path, err)
	}
	return nil
}

// makeDir makes a directory with exactly this mode.
func makeDir(p string, mode uint32, o *user) error {
	if err := unix.Mkdir(p, 0o700); err != nil {
		return err
	}
	if o != nil {
		if err := unix.Lchown(p, int(o.uid), int(o.gid)); err != nil {
			return err
		}
	}
	return unix.Chmod(p, mode)
}

// makeParents makes the missing directories above p, owned by o.
func makeParents(p string, o *user) error {
	dir := filepath.Dir(p)
	st, err := os.Stat(dir)
	if err == nil {
		if !st.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParents(dir, o); err != nil {
		return err
	}
	if err := makeDir(dir, defaultDirMode, o); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// remove serves OpRemove.
func (a *Agent) remove(r guest.Remove) error {
	p, err := a.path(r.Path)
	if err != nil {
		return err
	}
	if p == filepath.Clean(a.root) {
		return api.Errorf(api.Invalid, "remove %q: it is the root of all files", r.Path)
	}
	_, err = os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) && r.Force {
		return nil
	}
	if err == nil && r.Recursive {
		err = os.RemoveAll(p)
	} else if err == nil {
		err = os.Remove(p)
	}
	if err != nil {
		return failed("remove", r.Path, err)
	}
	return nil
}

// rename serves OpRename.
func (a *Agent) rename(r guest.Rename) error {
	from, err := a.path(r.From)
	if err != nil {
		return err
	}
	to, err := a.path(r.To)
	if err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		err = bare(err)
		return api.Errorf(classOf(err), "rename %q to %q: %w", r.From, r.To, err)
	}
	return nil
}

// read serves OpRead.
func (a *Agent) read(s stream, req []byte) error {
	var r guest.Read
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	p, err := a.readPath(r)
	if err != nil {
		return err
	}
	if r.Offset < 0 || r.Limit < 0 {
		return api.Errorf(api.Invalid, "read %q: offset or limit is negative", r.Path)
	}
	f, info, err := openRegular(p, r.Base)
	if err != nil {
		return failed("read", r.Path, err)
	}
	defer f.Close()
	if r.Offset > 0 {
		if _, err := f.Seek(r.Offset, 0); err != nil {
			return failed("read", r.Path, err)
		}
	}
	info.Path = r.Path
	info.User, info.Group = a.users.names(info.UID, info.GID)
	if err := s.reply(&info); err != nil {
		return err
	}
	return s.copyData(f, r)
}

// readPath is the path of a file that is to be read.
func (a *Agent) readPath(r guest.Read) (string, error) {
	if !r.Base {
		return a.path(r.Path)
	}
	if a.o.Base == "" {
		return "", errNoLayer
	}
	if _, err := a.path(r.Path); err != nil {
		return "", err
	}
	return a.o.Base + filepath.Join("/", r.Path), nil
}

// openRegular opens a regular file without waiting for a pipe's writer. direct
// follows no symbolic link at the end.
func openRegular(p string, direct bool) (*os.File, guest.FileInfo, error) {
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	if direct {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(p, flags, 0)
	if err != nil {
		return nil, guest.FileInfo{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, guest.FileInfo{}, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		unix.SetNonblock(fd, false)
		return os.NewFile(uintptr(fd), p), infoOf(&st), nil
	case unix.S_IFDIR:
		err = syscall.EISDIR
	default:
		err = api.Errorf(api.Invalid, "it is not a regular file")
	}
	unix.Close(fd)
	return nil, guest.FileInfo{}, err
}

// copyData sends what f holds, up to r.Limit bytes where that is not 0.
func (s stream) copyData(f *os.File, r guest.Read) error {
	buf := bufPool.Get().(*[guest.MaxPayload]byte)
	defer bufPool.Put(buf)
	left := r.Limit
	for {
		b := buf[:]
		if r.Limit > 0 {
			b = b[:min(int64(len(b)), left)]
		}
		if len(b) == 0 {
			return nil
		}
		n, err := f.Read(b)
		if n > 0 {
			left -= int64(n)
			if err := s.queue(guest.KindData, b[:n]); err != nil {
				return err
			}
		}
		if n == 0 && err != nil {
			if isEOF(err) {
				return nil
			}
			return failed("read", r.Path, err)
		}
	}
}

// dataWriter sends what is written to it as Data.
type dataWriter struct{ s stream }

func (w dataWriter) Write(p []byte) (int, error) {
	for part := range slices.Chunk(p, guest.MaxPayload) {
		if err := w.s.queue(guest.KindData, part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// dataReader reads the Data that the host sends.
type dataReader struct {
	s    stream
	rest []byte
}

func (r *dataReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.s.recv()
		if err != nil {
			return 0, err
		}
		if m.Kind != guest.KindData {
			return 0, api.Errorf(api.Invalid, "a message of kind %d where data had to be", m.Kind)
		}
		r.rest = m.Payload
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
