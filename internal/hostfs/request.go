package hostfs

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// request is one request of the guest's kernel under way.
type request struct {
	s   *Server
	h   header
	in  reader
	out writer

	told []told
}

// serve does what is asked and returns the answer.
func (r *request) serve() []byte {
	r.out.reset()
	err := r.do()
	if err == 0 && r.in.bad {
		err = unix.EINVAL
	}
	return r.out.seal(r.h.unique, err)
}

// do is the table of all that a guest may ask. What is not in it does not exist here:
// extended attributes, device control, locks of the host, temporary files without a
// name. Opening directories, and files of a folder that cannot be written to, is no
// question either: the kernel asks once, and then reads by the file's number.
func (r *request) do() unix.Errno {
	switch r.h.op {
	case opInit:
		return r.init()
	case opLookup:
		return r.lookup()
	case opGetattr:
		return r.getattr()
	case opReadlink:
		return r.readlink()
	case opReaddir:
		return r.readdir(false)
	case opReaddirplus:
		return r.readdir(true)
	case opRead:
		return r.read()
	case opStatfs:
		return r.statfs()
	}
	if r.s.c.Writable {
		return r.change()
	}
	switch r.h.op {
	case opSetattr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opRename2, opLink, opWrite, opCreate, opFallocate:
		return unix.EROFS
	}
	return unix.ENOSYS
}

// change is the part of the table for folders that may be written to.
func (r *request) change() unix.Errno {
	switch r.h.op {
	case opOpen:
		return r.open()
	case opRelease:
		r.s.nodes.released(r.in.u64())
		return 0
	case opCreate:
		return r.create()
	case opWrite:
		return r.write()
	case opFsync:
		return r.fsync()
	case opFallocate:
		return r.fallocate()
	case opSetattr:
		return r.setattr()
	case opMknod:
		return r.mknod()
	case opMkdir:
		return r.mkdir()
	case opSymlink:
		return r.symlink()
	case opLink:
		return r.link()
	case opUnlink:
		return r.remove(0)
	case opRmdir:
		return r.remove(unix.AT_REMOVEDIR)
	case opRename:
		to := r.in.u64()
		return r.rename(to, 0)
	case opRename2:
		to, flags := r.in.u64(), r.in.u32()
		r.in.skip(4)
		return r.rename(to, flags)
	}
	return unix.ENOSYS
}

// init agrees on the protocol.
func (r *request) init() unix.Errno {
	major, minor, ahead, offered := r.in.u32(), r.in.u32(), r.in.u32(), r.in.u32()
	if r.in.bad || major != protoMajor || minor < minMinor {
		return unix.EPROTO
	}
	const wanted = initAsyncRead | initAtomicTrunc | initBigWrites | initAutoInval | initReaddirplus |
		initAsyncDIO | initParallelDirs | initMaxPages | initCacheSymlinks
	w := &r.out
	w.u32(protoMajor)
	w.u32(min(minor, ourMinor))
	w.u32(min(ahead, maxData))
	w.u32(offered & wanted)
	w.u16(maxActive)         // requests that nobody waits for
	w.u16(maxActive / 4 * 3) // of which more are a jam
	w.u32(maxData)
	w.u32(1) // nanoseconds of a time's grain
	w.u16(maxData / 4096)
	w.u16(0)
	w.zero(8 * 4)
	return 0
}

// node returns the file that a request is about.
func (r *request) node() (*node, unix.Errno) { return r.s.nodes.get(r.h.node) }

// locate opens a node as open does, and makes sure that it is still the same file.
// The caller closes it.
func (s *Server) locate(n *node) (int, attr, unix.Errno) {
	for _, stranger := range s.nodes.strangers(n) {
		if stranger == n {
			break
		}
		fd, _, err := s.locateOne(stranger)
		if err != 0 {
			return -1, attr{}, err
		}
		unix.Close(fd)
	}
	return s.locateOne(n)
}

func (s *Server) locateOne(n *node) (int, attr, unix.Errno) {
	path, err := s.nodes.path(n)
	if err != 0 {
		return -1, attr{}, err
	}
	fd, err := s.root.open(path)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		err = unix.ESTALE // so that the guest looks again for what its name leads to now
	}
	if err != 0 {
		return -1, attr{}, err
	}
	key, a, err := s.root.admit(fd)
	if err == 0 {
		err = s.nodes.identify(n, key, a.mode&unix.S_IFMT)
	}
	if err != 0 {
		unix.Close(fd)
		return -1, attr{}, err
	}
	return fd, a, 0
}

// describe returns a node's attributes, also of a file that has no name any more but
// is open.
func (s *Server) describe(n *node) (attr, unix.Errno) {
	fd, a, err := s.locate(n)
	if err == 0 {
		unix.Close(fd)
	} else if h := s.nodes.anyHandle(n); h != nil {
		_, a, err = statFile(h.file)
	}
	if err == 0 {
		s.nodes.tell(n, a)
	}
	return a, err
}

// directory opens the directory that a request is about.
func (r *request) directory(id uint64) (*node, int, unix.Errno) {
	n, err := r.s.nodes.get(id)
	if err != 0 {
		return nil, -1, err
	}
	fd, _, err := r.s.locate(n)
	if err == 0 && n.kind != unix.S_IFDIR {
		unix.Close(fd)
		return nil, -1, unix.ENOTDIR
	}
	return n, fd, err
}

// child opens a file in an open directory and describes it.
func (s *Server) child(dir int, name string) (int, identity, attr, unix.Errno) {
	r := root{fd: dir, hidden: s.root.hidden}
	fd, err := r.open(name)
	if err != 0 {
		return -1, identity{}, attr{}, err
	}
	key, a, err := r.admit(fd)
	if err != 0 {
		unix.Close(fd)
		return -1, key, a, err
	}
	return fd, key, a, 0
}

func (r *request) lookup() unix.Errno {
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
	err = r.found(dir, fd, name, life)
	if err == unix.ENOENT {
		// Number 0: there is none, and that may be kept in mind too.
		r.out.reset()
		r.entry(place{dir.id, name}, nil, &attr{}, life)
		return 0
	}
	r.s.ahead(dir)
	return err
}

// found answers with the file of a name, which the kernel then knows.
func (r *request) found(dir *node, fd int, name string, life lifetime) unix.Errno {
	f, key, a, err := r.s.child(fd, name)
	if err != 0 {
		return err
	}
	unix.Close(f)
	n, err := r.s.nodes.intern(dir, name, key, &a)
	if err != 0 {
		return err
	}
	if r.s.nodes.count() > shrinkAt {
		r.s.shrink()
	}
	r.entry(place{dir.id, name}, n, &a, life)
	return 0
}

// entry appends what is at a place, with its number.
func (r *request) entry(at place, n *node, a *attr, life lifetime) {
	entry, attrs := life.of(n, a)
	var id uint64
	if n != nil {
		id = n.id
	}
	if entry == longLife {
		r.told = append(r.told, told{at, id, life})
	}
	w := &r.out
	w.u64(id)
	w.u64(0) // numbers are not given twice
	w.u64(uint64(entry / time.Second))
	w.u64(uint64(attrs / time.Second))
	w.u32(0)
	w.u32(0)
	w.attr(a, r.s.uid, r.s.gid)
}

// told is what an answer says for long.
type told struct {
	at   place
	id   uint64
	life lifetime
}

// recall takes back what has become untrue before it was sent: the guest may have been
// told of the change before it had what was changed.
func (r *request) recall() {
	for _, t := range r.told {
		if !t.life.outdated() {
			continue
		}
		r.s.reply(invalidEntry(t.at.parent, t.at.name))
		if t.id != 0 {
			r.s.reply(invalidInode(t.id))
		}
	}
}

func (r *request) getattr() unix.Errno {
	n, err := r.node()
	if err != 0 {
		return err
	}
	return r.attributes(n)
}

// attributes answers with what a file is.
func (r *request) attributes(n *node) unix.Errno {
	life := r.s.watch.beginFile(n)
	a, err := r.s.describe(n)
	if err != 0 {
		return err
	}
	_, attrs := life.of(n, &a)
	r.out.u64(uint64(attrs / time.Second))
	r.out.u32(0)
	r.out.u32(0)
	r.out.attr(&a, r.s.uid, r.s.gid)
	return 0
}

func (r *request) readlink() unix.Errno {
	n, err := r.node()
	if err != 0 {
		return err
	}
	fd, _, err := r.s.locate(n)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	if n.kind != unix.S_IFLNK {
		return unix.EINVAL
	}
	var b [maxPath + 1]byte
	k, e := unix.Readlinkat(fd, "", b[:])
	if e != nil {
		return errno(e)
	}
	r.out.b = append(r.out.b, b[:k]...)
	return 0
}

func (r *request) statfs() unix.Errno {
	var st unix.Statfs_t
	if err := unix.Fstatfs(r.s.root.fd, &st); err != nil {
		return errno(err)
	}
	w := &r.out
	w.u64(st.Blocks)
	w.u64(st.Bfree)
	w.u64(st.Bavail)
	w.u64(st.Files)
	w.u64(st.Ffree)
	w.u32(uint32(st.Bsize))
	w.u32(maxName)
	w.u32(uint32(st.Frsize))
	w.zero(4 + 6*4)
	return 0
}

// read answers with bytes of a file, by its handle or, where opening is no question,
// its number.
func (r *request) read() unix.Errno {
	id, offset, size := r.in.u64(), r.in.u64(), r.in.u32()
	r.in.skip(16)
	if r.in.bad || size > maxData || int64(offset) < 0 {
		return unix.EINVAL
	}
	f, err := r.file(id, unix.O_RDONLY)
	if err != 0 {
		return err
	}
	defer f.free()
	start := len(r.out.b)
	r.out.zero(int(size))
	n, e := f.ReadAt(r.out.b[start:], int64(offset))
	r.out.b = r.out.b[:start+max(n, 0)]
	if n > 0 {
		return 0
	}
	return errno(e)
}

// readdir answers with names of a directory from an offset on, as the host's file
// system counts, and with the files themselves where plus. Such offsets stay true
// while the directory is not open.
func (r *request) readdir(plus bool) unix.Errno {
	r.in.skip(8)
	offset, size := r.in.u64(), r.in.u32()
	r.in.skip(20)
	if r.in.bad || size > maxData {
		return unix.EINVAL
	}
	dir, fd, err := r.directory(r.h.node)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	life := r.s.watch.begin(dir, fd)
	d, err := reopen(fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != 0 {
		return err
	}
	defer unix.Close(d)
	if _, e := unix.Seek(d, int64(offset), unix.SEEK_SET); e != nil {
		return errno(e)
	}
	if plus && offset == 0 {
		r.s.nodes.listed(dir)
	}
	l := list{r: r, dir: dir, fd: fd, plus: plus, life: life, most: outHeaderLen + int(size)}
	return l.fill(d)
}

// list is an answer to readdir under way.
type list struct {
	r    *request
	dir  *node
	fd   int // of the directory, to find its files by
	plus bool
	life lifetime
	most int // length of the answer
}

// fill reads the open directory d until the answer is full.
func (l *list) fill(d int) unix.Errno {
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(d, buf)
		if err != nil {
			if len(l.r.out.b) > outHeaderLen {
				return 0
			}
			return errno(err)
		}
		if n == 0 {
			return 0
		}
		for b := buf[:n]; len(b) > 0; {
			k := int(binary.LittleEndian.Uint16(b[16:]))
			if !l.add(b[:k]) {
				return 0
			}
			b = b[k:]
		}
	}
}

// add appends one of the host's directory entries (struct linux_dirent64), if there
// is room.
func (l *list) add(e []byte) bool {
	name := e[19:]
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	w := &l.r.out
	need := (direntLen + len(name) + 7) &^ 7
	if l.plus {
		need += entryLen
	}
	if len(w.b)+need > l.most {
		return false
	}
	end := len(w.b) + need
	if l.plus {
		l.file(string(name))
	}
	w.b = append(w.b, e[:16]...) // number and offset
	w.u32(uint32(len(name)))
	w.u32(uint32(e[18]))
	w.b = append(w.b, name...)
	w.zero(end - len(w.b))
	return true
}

// file appends what the name stands for; nothing where that is not to be known.
func (l *list) file(name string) {
	start := len(l.r.out.b)
	if name != "." && name != ".." && l.r.found(l.dir, l.fd, name, l.life) == 0 {
		return
	}
	l.r.out.b = l.r.out.b[:start]
	l.r.out.zero(entryLen)
}
