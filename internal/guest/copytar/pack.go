// Package copytar moves files as tar streams between a host and a guest, neither
// of which trusts the other's archives.
//
//	plan, err := copytar.Decide(src, copytar.Dir, dst, copytar.Missing)
//	err = copytar.Pack(w, root, []string{"src"}, copytar.PackOptions{})
//	res, err := copytar.Unpack(r, root, copytar.UnpackOptions{})
//
// Pack never follows a symbolic link. Unpack touches nothing outside its root,
// whatever the archive says: every path is walked component by component from the
// root's descriptor, and a link that leads out is an error.
package copytar

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds how deep directories are nested: each holds a descriptor.
	maxDepth = 512
	// maxLinks bounds the files whose further names are found and packed as hard links.
	maxLinks = 1 << 20
	// xattrPrefix marks extended attributes among the PAX records.
	xattrPrefix = "SCHILY.xattr."
	// maxXattr bounds the list of names and each value, in bytes.
	maxXattr = 64 << 10
)

// PackOptions say what Pack packs. The zero value packs as it is.
type PackOptions struct {
	Xattrs bool // extended attributes too
	// Name is the name of the single path in the archive; empty: its own. "."
	// packs what a directory holds.
	Name string
}

// Packer packs one archive entry by entry. The zero value is not ready.
type Packer struct {
	w     *tar.Writer
	o     PackOptions
	links map[inode]string
	buf   []byte
}

type inode struct{ dev, ino uint64 }

// NewPacker makes a packer that writes to w. Close it.
func NewPacker(w io.Writer, o PackOptions) *Packer {
	return &Packer{w: tar.NewWriter(w), o: o, links: map[inode]string{}, buf: make([]byte, copyBuf)}
}

// Close writes the end of the archive.
func (p *Packer) Close() error { return p.w.Close() }

// Pack writes paths, which are relative to root and lie below it, as a tar
// stream: directories with all they hold. Sockets are left out.
func Pack(w io.Writer, root *os.Root, paths []string, o PackOptions) error {
	p := NewPacker(w, o)
	for _, name := range paths {
		if err := p.top(root, path.Clean(name)); err != nil {
			return err
		}
	}
	return p.Close()
}

// Add packs base in dir, without what it holds where it is a directory, under
// the name as.
func (p *Packer) Add(dir *os.Root, base, as string) error {
	fi, err := dir.Lstat(base)
	if err != nil {
		return failed("pack", as, err)
	}
	if !fi.IsDir() {
		return p.node(dir, base, fi, as)
	}
	sub, err := dir.OpenRoot(base)
	if err != nil {
		return failed("pack", as, err)
	}
	defer sub.Close()
	_, err = p.dirHeader(sub, header(fi, as))
	return err
}

// AddEmpty packs an empty file, as layers mark what was removed.
func (p *Packer) AddEmpty(name string) error {
	return p.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600})
}

const copyBuf = 64 << 10

func (p *Packer) top(root *os.Root, name string) error {
	if !filepathIsLocal(name) {
		return api.Errorf(api.Invalid, "pack %q: it is not below the directory", name)
	}
	dir, base := path.Split(name)
	if dir == "" {
		dir = "."
	}
	as := name
	if p.o.Name != "" {
		as = p.o.Name
	}
	sub, err := root.OpenRoot(dir)
	if err != nil {
		return failed("pack", name, err)
	}
	defer sub.Close()
	return p.entry(sub, base, path.Clean(as), 0)
}

// filepathIsLocal is filepath.IsLocal for names in archives.
func filepathIsLocal(name string) bool {
	return name != "" && !path.IsAbs(name) && name != ".." && !strings.HasPrefix(path.Clean(name), "../") && path.Clean(name) != ".."
}

// entry packs base in dir, with all it holds, under the name as.
func (p *Packer) entry(dir *os.Root, base, as string, depth int) error {
	fi, err := dir.Lstat(base)
	if err != nil {
		return failed("pack", as, err)
	}
	if fi.IsDir() {
		return p.dir(dir, base, header(fi, as), depth)
	}
	return p.node(dir, base, fi, as)
}

// node packs anything but a directory.
func (p *Packer) node(dir *os.Root, base string, fi fs.FileInfo, as string) (err error) {
	h := header(fi, as)
	switch fi.Mode().Type() {
	case 0:
		return p.file(dir, base, fi, h)
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = dir.Readlink(base); err != nil {
			return failed("pack", as, err)
		}
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case fs.ModeDevice | fs.ModeCharDevice:
		h.Typeflag = tar.TypeChar
	case fs.ModeDevice:
		h.Typeflag = tar.TypeBlock
	default:
		return nil // a socket is nothing without the process behind it
	}
	return p.header(h)
}

// header makes the header of a file's metadata. The names of owners stay out:
// they are the other side's to look up.
func header(fi fs.FileInfo, name string) *tar.Header {
	// Cut to seconds, else the writer rounds and files come from the future.
	h := &tar.Header{Name: name, ModTime: fi.ModTime().Truncate(time.Second)}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		h.Mode = int64(st.Mode & 0o7777)
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
		if fi.Mode()&fs.ModeDevice != 0 {
			h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		}
	}
	return h
}

func (p *Packer) header(h *tar.Header) error {
	if err := p.w.WriteHeader(h); err != nil {
		return failed("pack", h.Name, err)
	}
	return nil
}

func (p *Packer) file(dir *os.Root, base string, fi fs.FileInfo, h *tar.Header) error {
	h.Typeflag = tar.TypeReg
	if first, ok := p.hardLink(fi, h.Name); ok {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return p.header(h)
	}
	// A file that became a pipe meanwhile must not block.
	f, err := dir.OpenFile(base, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return failed("pack", h.Name, err)
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return failed("pack", h.Name, err)
	}
	if !os.SameFile(fi, now) || !now.Mode().IsRegular() {
		return changed(h.Name)
	}
	h.Size = now.Size()
	if p.o.Xattrs {
		h.PAXRecords = xattrs(int(f.Fd()))
	}
	if err := p.header(h); err != nil {
		return err
	}
	return p.content(f, h)
}

// content copies as much as the header says. A file that grows is cut there; one
// that shrinks is an error, since nobody wants the zeros.
func (p *Packer) content(f io.Reader, h *tar.Header) error {
	n, err := io.CopyBuffer(onlyWriter{p.w}, io.LimitReader(f, h.Size), p.buf)
	if err != nil {
		return failed("pack", h.Name, err)
	}
	if n != h.Size {
		return changed(h.Name)
	}
	return nil
}

// onlyWriter hides ReadFrom, which would not use the buffer.
type onlyWriter struct{ io.Writer }

func changed(name string) error {
	return api.Errorf(api.Conflict, "pack %q: it changed while it was read", name).
		WithRecovery("Copy again when nothing writes to it.")
}

// hardLink returns the name under which the same file was packed before.
func (p *Packer) hardLink(fi fs.FileInfo, name string) (string, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return "", false
	}
	key := inode{uint64(st.Dev), st.Ino}
	if first, ok := p.links[key]; ok {
		return first, true
	}
	if len(p.links) < maxLinks {
		p.links[key] = name
	}
	return "", false
}

func (p *Packer) dir(parent *os.Root, base string, h *tar.Header, depth int) error {
	if depth > maxDepth {
		return api.Errorf(api.Exhausted, "pack %q: directories are nested deeper than %d", h.Name, maxDepth)
	}
	dir, err := parent.OpenRoot(base)
	if err != nil {
		return failed("pack", h.Name, err)
	}
	defer dir.Close()
	as := h.Name
	names, err := p.dirHeader(dir, h)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := p.entry(dir, n, path.Join(as, n), depth+1)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dirHeader packs an opened directory itself and returns the names in it, sorted.
func (p *Packer) dirHeader(dir *os.Root, h *tar.Header) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, failed("pack", h.Name, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, failed("pack", h.Name, err)
	}
	slices.Sort(names)
	h.Typeflag = tar.TypeDir
	h.Name += "/"
	if p.o.Xattrs {
		h.PAXRecords = xattrs(int(f.Fd()))
	}
	return names, p.header(h)
}

// xattrs reads extended attributes as PAX records. Those of overlayfs describe
// its layers, not the file.
func xattrs(fd int) map[string]string {
	list := make([]byte, maxXattr)
	n, err := unix.Flistxattr(fd, list)
	if err != nil || n == 0 {
		return nil
	}
	records := map[string]string{}
	value := make([]byte, maxXattr)
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if n, err := unix.Fgetxattr(fd, name, value); err == nil {
			records[xattrPrefix+name] = string(value[:n])
		}
	}
	return records
}

// failed makes an error of one of the system.
func failed(act, name string, err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	}
	return api.Errorf(classOf(err), "%s %q: %w", act, name, err)
}

func classOf(err error) api.Class {
	var ae *api.Error
	switch {
	case errors.As(err, &ae):
		return ae.Class
	case errors.Is(err, fs.ErrNotExist):
		return api.NotFound
	case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENOTEMPTY):
		return api.Conflict
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return api.Denied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EMFILE):
		return api.Exhausted
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EINVAL),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrHeader):
		return api.Invalid
	// os keeps these two errors to itself.
	case strings.HasSuffix(err.Error(), "path escapes from parent"):
		return api.Denied
	case strings.HasSuffix(err.Error(), "not a directory"):
		return api.Conflict
	}
	return api.Internal
}
