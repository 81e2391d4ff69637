package copytar

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
	"unsafe"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

// maxName bounds a name in an archive, in bytes, as the kernel bounds paths.
const maxName = 4095

// maxDirTimes bounds the directories whose times are set at the end.
const maxDirTimes = 1 << 17

// Owner is who owns a file, in numbers.
type Owner struct{ UID, GID int }

// UnpackOptions say what Unpack may do. The zero value makes files, directories
// and links, owned by whoever unpacks.
type UnpackOptions struct {
	KeepOwner bool   // set the archive's numeric owners
	Owner     *Owner // set this owner instead
	KeepDirs  bool   // leave mode and owner of directories that exist already
	Xattrs    bool   // set extended attributes
	Devices   bool   // make devices and pipes; otherwise they are refused
	Setid     bool   // keep the bits that make a program run as its owner
	// Rename gives the top entry From, and what is below it, the name To.
	From, To string
	MaxBytes int64 // of all files together; 0: no bound
}

// Result counts what was unpacked.
type Result struct{ Files, Bytes int64 }

type unpacker struct {
	r     *tar.Reader
	root  *os.Root
	o     UnpackOptions
	res   Result
	dirs  []dirTime
	buf   []byte
	where string   // directory of the last entry
	dir   *os.Root // the same, opened
}

type dirTime struct {
	name  string
	mtime time.Time
	mode  fs.FileMode
}

// Unpack unpacks a tar stream into root. It stops at the first entry that cannot
// be unpacked, or that must not be: class Denied for names and links that lead
// out of root.
func Unpack(r io.Reader, root *os.Root, o UnpackOptions) (Result, error) {
	u := &unpacker{r: tar.NewReader(r), root: root, o: o, buf: make([]byte, copyBuf)}
	defer u.leave()
	for {
		h, err := u.r.Next()
		if err == io.EOF {
			return u.res, u.finish()
		}
		if err != nil {
			return u.res, unreadable(err)
		}
		if err := u.entry(h); err != nil {
			return u.res, err
		}
	}
}

// unreadable keeps the class of an error of the stream below the archive.
func unreadable(err error) error {
	var ae *api.Error
	if errors.As(err, &ae) {
		return err
	}
	return api.Errorf(api.Invalid, "unpack: the archive is damaged: %w", err)
}

// local checks a name of the archive and applies the renaming.
func (u *unpacker) local(name string) (string, error) {
	if len(name) > maxName {
		return "", api.Errorf(api.Invalid, "unpack %.64q...: the name has more than %d bytes", name, maxName)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", api.Errorf(api.Invalid, "unpack %q: the name holds a zero byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", api.Errorf(api.Denied, "unpack %q: the name leads out of the directory", name)
		}
	}
	if path.IsAbs(name) || name == "" {
		return "", api.Errorf(api.Denied, "unpack %q: the name is not relative", name)
	}
	name = path.Clean(name)
	if u.o.To == "" {
		return name, nil
	}
	if top, rest, _ := strings.Cut(name, "/"); top == u.o.From {
		return path.Join(u.o.To, rest), nil
	}
	return name, nil
}

func (u *unpacker) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return sparse(h)
		}
	}
	name, err := u.local(h.Name)
	if err != nil {
		return err
	}
	dir, base, err := u.enter(name)
	if err != nil {
		return failed("unpack", name, err)
	}
	if err := u.make(dir, base, name, h); err != nil {
		return failed("unpack", name, err)
	}
	u.res.Files++
	return nil
}

// sparse refuses what a few bytes can blow up to any size.
func sparse(h *tar.Header) error {
	return api.Errorf(api.Invalid, "unpack %q: sparse entries are not supported", h.Name)
}

// enter opens the directory of a name, which it makes where it is missing. It
// stays open: the next entry is most likely in it too.
func (u *unpacker) enter(name string) (*os.Root, string, error) {
	where, base := path.Split(name)
	if where == "" {
		return u.root, base, nil
	}
	if where == u.where {
		return u.dir, base, nil
	}
	u.leave()
	err := u.root.MkdirAll(path.Clean(where), 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, "", err
	}
	dir, err := u.root.OpenRoot(path.Clean(where))
	if err != nil {
		return nil, "", err
	}
	u.dir, u.where = dir, where
	return dir, base, nil
}

func (u *unpacker) leave() {
	if u.dir != nil {
		u.dir.Close()
	}
	u.dir, u.where = nil, ""
}

// make makes one entry. Links are resolved from the top root, since a root's
// bound is what keeps them in.
func (u *unpacker) make(dir *os.Root, base, name string, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.makeDir(name, h)
	case tar.TypeReg:
		if err := clear(dir, base); err != nil {
			return err
		}
		return u.makeFile(dir, base, h)
	case tar.TypeSymlink:
		if err := clear(dir, base); err != nil {
			return err
		}
		if err := dir.Symlink(h.Linkname, base); err != nil {
			return err
		}
		return u.own(dir, base, h)
	case tar.TypeLink:
		return u.makeLink(name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.makeDevice(dir, base, h)
	case tar.TypeGNUSparse:
		return sparse(h)
	}
	return api.Errorf(api.Invalid, "entries of type %q are not supported", h.Typeflag)
}

// clear removes what an entry replaces. A directory is not replaced.
func clear(dir *os.Root, base string) error {
	fi, err := dir.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return api.Errorf(api.Conflict, "a directory is in its place")
	}
	return dir.Remove(base)
}

func (u *unpacker) makeDir(name string, h *tar.Header) error {
	// A link to a directory inside the root counts as one: /lib of today's systems.
	fi, err := u.root.Stat(name)
	exists := err == nil && fi.IsDir()
	if !exists {
		if err := u.root.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	if exists && u.o.KeepDirs {
		return nil
	}
	f, err := u.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	mode := u.mode(h)
	if len(u.dirs) < maxDirTimes {
		u.dirs = append(u.dirs, dirTime{name, h.ModTime, mode})
		mode |= 0o700 // so that what comes can be put into it
	}
	return u.describe(f, h, mode)
}

func (u *unpacker) makeFile(dir *os.Root, base string, h *tar.Header) error {
	if u.o.MaxBytes > 0 && h.Size > u.o.MaxBytes-u.res.Bytes {
		return api.Errorf(api.Exhausted, "the archive holds more than %d bytes", u.o.MaxBytes)
	}
	f, err := dir.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{f}, u.r, u.buf)
	u.res.Bytes += n
	if err != nil {
		f.Close()
		return err
	}
	err = errors.Join(u.describe(f, h, u.mode(h)), futimes(f, h.ModTime))
	return errors.Join(err, f.Close())
}

// describe sets owner, attributes and mode, in this order: a change of owner
// clears bits of the mode, and attributes may need the right to write.
func (u *unpacker) describe(f *os.File, h *tar.Header, mode fs.FileMode) error {
	if o, ok := u.owner(h); ok {
		if err := f.Chown(o.UID, o.GID); err != nil {
			return err
		}
	}
	if u.o.Xattrs {
		if err := setXattrs(int(f.Fd()), h); err != nil {
			return err
		}
	}
	return unix.Fchmod(int(f.Fd()), uint32(mode))
}

// mode returns the permission bits as the kernel counts them.
func (u *unpacker) mode(h *tar.Header) fs.FileMode {
	if u.o.Setid {
		return fs.FileMode(h.Mode & 0o7777)
	}
	return fs.FileMode(h.Mode & 0o1777)
}

func (u *unpacker) owner(h *tar.Header) (Owner, bool) {
	if u.o.Owner != nil {
		return *u.o.Owner, true
	}
	return Owner{h.Uid, h.Gid}, u.o.KeepOwner
}

func (u *unpacker) own(dir *os.Root, base string, h *tar.Header) error {
	if o, ok := u.owner(h); ok {
		return dir.Lchown(base, o.UID, o.GID)
	}
	return nil
}

// futimes sets the time of an open file.
func futimes(f *os.File, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	both := [2]unix.Timespec{ts, ts}
	// Without a path the call is about the descriptor.
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&both)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func setXattrs(fd int, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		err := unix.Fsetxattr(fd, name, []byte(v), 0)
		// A file system without them is no reason to lose the file.
		if err != nil && err != unix.ENOTSUP {
			return err
		}
	}
	return nil
}

func (u *unpacker) makeLink(name string, h *tar.Header) error {
	target, err := u.local(h.Linkname)
	if err != nil {
		return err
	}
	if target == name {
		return nil
	}
	if err := clear(u.root, name); err != nil {
		return err
	}
	return u.root.Link(target, name)
}

func (u *unpacker) makeDevice(dir *os.Root, base string, h *tar.Header) error {
	if !u.o.Devices {
		return api.Errorf(api.Denied, "it is a device or pipe")
	}
	if err := clear(dir, base); err != nil {
		return err
	}
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if err := unix.Mknodat(int(f.Fd()), base, kind, int(dev)); err != nil {
		return err
	}
	if err := u.own(dir, base, h); err != nil {
		return err
	}
	return unix.Fchmodat(int(f.Fd()), base, uint32(u.mode(h)), 0)
}

// finish sets what filling a directory would have changed again, the deepest
// first: a directory may end up closed to us.
func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		f, err := u.root.Open(d.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // replaced by a later entry
		}
		if err != nil {
			return failed("unpack", d.name, err)
		}
		err = errors.Join(unix.Fchmod(int(f.Fd()), uint32(d.mode)), futimes(f, d.mtime), f.Close())
		if err != nil {
			return failed("unpack", d.name, err)
		}
	}
	return nil
}
