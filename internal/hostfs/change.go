package hostfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// openFile is an open file for one request.
type openFile struct {
	*os.File
	own bool // opened for the request, not by a handle
}

func (f openFile) free() {
	if f.own {
		f.Close()
	}
}

func statFile(f *os.File) (id identity, a attr, err unix.Errno) {
	c, e := f.SyscallConn()
	if e == nil {
		e = c.Control(func(fd uintptr) { id, a, err = stat(int(fd)) })
	}
	if e != nil {
		return id, a, unix.EBADF // closed meanwhile
	}
	return id, a, err
}

// file returns the file of a handle. Without one, or with one from before a resume,
// it opens the file that the request is about.
func (r *request) file(id uint64, flags int) (openFile, unix.Errno) {
	if h := r.s.nodes.handle(id); id != 0 && h != nil && h.node.id == r.h.node {
		if h.file != nil {
			return openFile{File: h.file}, 0
		}
		flags = h.flags
	}
	n, err := r.node()
	if err != 0 {
		return openFile{}, err
	}
	f, err := r.s.openNode(n, flags)
	return openFile{File: f, own: true}, err
}

// openNode opens a regular file for its content.
func (s *Server) openNode(n *node, flags int) (*os.File, unix.Errno) {
	fd, a, err := s.locate(n)
	if err != 0 {
		if h := s.nodes.anyHandle(n); h != nil && err == unix.ESTALE {
			return reopenFile(h.file, flags)
		}
		return nil, err
	}
	defer unix.Close(fd)
	return reopenRegular(fd, a.mode, flags)
}

// reopenFile opens an open file, which may have no name any more, once more.
func reopenFile(f *os.File, flags int) (*os.File, unix.Errno) {
	var g *os.File
	err := unix.EBADF
	if c, e := f.SyscallConn(); e == nil {
		c.Control(func(fd uintptr) { g, err = reopenRegular(int(fd), unix.S_IFREG, flags) })
	}
	return g, err
}

func reopenRegular(fd int, mode uint32, flags int) (*os.File, unix.Errno) {
	if mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EISDIR
	}
	g, err := reopen(fd, flags)
	if err != 0 {
		return nil, err
	}
	return os.NewFile(uintptr(g), "shared file"), 0
}

// access is what of the flags of open(2) reaches the host. Where a write goes is in
// the request, so a file that is only appended to is not told from others.
func access(flags uint32) int { return int(flags) & unix.O_ACCMODE }

func (r *request) open() unix.Errno {
	flags := r.in.u32()
	r.in.skip(4)
	n, err := r.node()
	if err != 0 || r.in.bad {
		return err
	}
	f, err := r.s.openNode(n, access(flags))
	if err != 0 {
		return err
	}
	if flags&unix.O_TRUNC != 0 {
		if e := f.Truncate(0); e != nil {
			f.Close()
			return fileError(e)
		}
		r.s.changed(n, f)
	}
	return r.opened(n, f, access(flags))
}

func (r *request) opened(n *node, f *os.File, flags int) unix.Errno {
	h, err := r.s.nodes.opened(n, f, flags)
	if err != 0 {
		f.Close()
		return err
	}
	r.out.u64(h.id)
	r.out.u32(openKeepCache)
	r.out.u32(0)
	return 0
}

// create makes a file that is open at once.
func (r *request) create() unix.Errno {
	flags, mode := r.in.u32(), r.in.u32()
	r.in.skip(8)
	name := r.in.name()
	if r.in.bad {
		return unix.EINVAL
	}
	dir, fd, err := r.directory(r.h.node)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	life := r.s.watch.begin(dir, fd)
	f, err := makeFile(fd, name, mode, unix.O_RDWR)
	how := unix.O_RDWR
	if err == unix.EEXIST && flags&unix.O_EXCL == 0 {
		return unix.ESTALE // the host was faster; the kernel looks again and opens it
	}
	if err != 0 {
		return err
	}
	if err := r.found(dir, fd, name, life); err != 0 {
		f.Close()
		return err
	}
	n, err := r.s.nodes.at(dir, name)
	if err != 0 {
		f.Close()
		return err
	}
	return r.opened(n, f, how)
}

// makeFile makes a file that was not there. What the host's umask takes away is given
// back: the guest's own was heeded already.
func makeFile(dir int, name string, mode uint32, flags int) (*os.File, unix.Errno) {
	fd, err := unix.Openat(dir, name, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errno(err)
	}
	f := os.NewFile(uintptr(fd), "shared file")
	if err := unix.Fchmod(fd, mode&0o777); err != nil {
		f.Close()
		return nil, errno(err)
	}
	return f, 0
}

func (r *request) write() unix.Errno {
	id, offset, size := r.in.u64(), r.in.u64(), r.in.u32()
	r.in.skip(20)
	if r.in.bad || int(size) != len(r.in.b) || int64(offset) < 0 {
		return unix.EINVAL
	}
	n, err := r.node()
	if err != 0 {
		return err
	}
	f, err := r.file(id, unix.O_WRONLY)
	if err != 0 {
		return err
	}
	defer f.free()
	k, e := f.WriteAt(r.in.b, int64(offset))
	if k == 0 && e != nil {
		return fileError(e)
	}
	r.s.changed(n, f.File)
	r.out.u32(uint32(k))
	r.out.u32(0)
	return 0
}

func (r *request) fsync() unix.Errno {
	f, err := r.file(r.in.u64(), unix.O_RDONLY)
	r.in.skip(8)
	if err != 0 {
		return err
	}
	defer f.free()
	return fileError(f.Sync())
}

func (r *request) fallocate() unix.Errno {
	id, offset, length, mode := r.in.u64(), r.in.u64(), r.in.u64(), r.in.u32()
	r.in.skip(4)
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if r.in.bad || mode&^known != 0 {
		return unix.EOPNOTSUPP
	}
	n, err := r.node()
	if err != 0 {
		return err
	}
	f, err := r.file(id, unix.O_WRONLY)
	if err != 0 {
		return err
	}
	defer f.free()
	c, e := f.SyscallConn()
	if e != nil {
		return unix.EBADF
	}
	var fe error
	if e := c.Control(func(fd uintptr) { fe = unix.Fallocate(int(fd), mode, int64(offset), int64(length)) }); e != nil {
		return unix.EBADF
	}
	r.s.changed(n, f.File)
	return errno(fe)
}

// changed notes what a file is after a change of the guest's own, so that the host's
// notice of it is not taken for news.
func (s *Server) changed(n *node, f *os.File) {
	if _, a, err := statFile(f); err == 0 {
		s.nodes.tell(n, a)
	}
}

// fileError is the number of an error of package os.
func fileError(err error) unix.Errno {
	switch e := err.(type) {
	case nil:
		return 0
	case *os.PathError:
		return errno(e.Err)
	case *os.SyscallError:
		return errno(e.Err)
	}
	return errno(err)
}

// setattr changes mode, size and times. An owner is what it is: each file of the
// folder is the same user's.
func (r *request) setattr() unix.Errno {
	valid := r.in.u32()
	r.in.skip(4)
	handle, size := r.in.u64(), r.in.u64()
	r.in.skip(8)
	times := [2]unix.Timespec{{Sec: int64(r.in.u64())}, {Sec: int64(r.in.u64())}}
	r.in.skip(8)
	times[0].Nsec, times[1].Nsec = int64(r.in.u32()), int64(r.in.u32())
	r.in.skip(4)
	mode := r.in.u32()
	r.in.skip(4)
	uid, gid := r.in.u32(), r.in.u32()
	if r.in.bad {
		return unix.EINVAL
	}
	if valid&setUID != 0 && uid != r.s.uid || valid&setGID != 0 && gid != r.s.gid {
		return unix.EPERM
	}
	n, err := r.node()
	if err != 0 {
		return err
	}
	if valid&setSize != 0 {
		if valid&setFH == 0 {
			handle = 0
		}
		if err := r.truncate(handle, int64(size)); err != 0 {
			return err
		}
	}
	if err := r.touch(n, valid, mode, times[:]); err != 0 {
		return err
	}
	return r.attributes(n)
}

func (r *request) truncate(handle uint64, size int64) unix.Errno {
	if size < 0 {
		return unix.EINVAL
	}
	f, err := r.file(handle, unix.O_WRONLY)
	if err != 0 {
		return err
	}
	defer f.free()
	return fileError(f.Truncate(size))
}

// touch sets the mode and the times of a file.
func (r *request) touch(n *node, valid, mode uint32, times []unix.Timespec) unix.Errno {
	if valid&(setMode|setAtime|setMtime) == 0 {
		return 0
	}
	fd, free, err := r.s.hold(n)
	if err != 0 {
		return err
	}
	defer free()
	if valid&setMode != 0 {
		if n.kind == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		if e := unix.Chmod(procPath(fd), mode&shownMode(n.kind)); e != nil {
			return errno(e)
		}
	}
	for i, bits := range [][2]uint32{{setAtime, setAtimeNow}, {setMtime, setMtimeNow}} {
		switch {
		case valid&bits[0] == 0:
			times[i].Nsec = unix.UTIME_OMIT
		case valid&bits[1] != 0:
			times[i].Nsec = unix.UTIME_NOW
		}
	}
	if valid&(setAtime|setMtime) == 0 {
		return 0
	}
	return errno(unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), times, 0))
}

// hold opens a node to change what it is, also one without a name that is open.
func (s *Server) hold(n *node) (fd int, free func(), err unix.Errno) {
	fd, _, err = s.locate(n)
	if err == 0 {
		return fd, func() { unix.Close(fd) }, 0
	}
	h := s.nodes.anyHandle(n)
	if h == nil {
		return -1, nil, err
	}
	f, err := reopenFile(h.file, unix.O_RDONLY)
	if err != 0 {
		return -1, nil, err
	}
	return int(f.Fd()), func() { f.Close() }, 0
}
