package hostfs

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
)

// watcher tells the guest what changes on the host, in the directories that it has
// looked into. So it may keep what it knows for long, and asks seldom. A directory
// that cannot be watched, because there are too many or its file system does not tell,
// is one whose files the guest asks about every second.
type watcher struct {
	s    *Server
	file *os.File // of inotify
	done chan struct{}

	// Guarded by the server's nodes.mu.
	dirs map[int32]*node
	all  uint64 // counts the times when all may have changed
}

const (
	watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_ATTRIB |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	nameMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	// maxWatches bounds the directories of one folder that are watched: a user has
	// often no more than 8192 for everything.
	maxWatches = 4096
	// gather is how long changes are collected before the guest is told: who writes a
	// file writes it many times.
	gather = 20 * time.Millisecond
	// maxNews bounds what is collected; beyond it all may have changed.
	maxNews = 4096
)

// foreign are file systems that others than this host change, or that do not tell.
func foreign(kind int64) bool {
	switch kind {
	case unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
		unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC:
		return true
	}
	return false
}

// newWatcher returns nil where there is nothing to be told.
func newWatcher(s *Server) *watcher {
	var st unix.Statfs_t
	if unix.Fstatfs(s.root.fd, &st) != nil || foreign(int64(st.Type)) {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &watcher{s: s, file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}), dirs: map[int32]*node{}}
	go w.run()
	return w
}

func (w *watcher) close() {
	if w == nil {
		return
	}
	w.file.Close()
	<-w.done
}

// reset forgets all directories. What was watched for the nodes before is not told.
func (w *watcher) reset() {
	if w == nil {
		return
	}
	w.s.nodes.mu.Lock()
	defer w.s.nodes.mu.Unlock()
	for wd := range w.dirs {
		w.remove(wd)
	}
}

// remove ends a watch. Called with nodes.mu held.
func (w *watcher) remove(wd int32) {
	delete(w.dirs, wd)
	if c, err := w.file.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

// lifetime says how long what is found out from its begin on stays true: for long
// only if a change would be told of later.
type lifetime struct {
	w        *watcher
	dir      *node // whose files it is about; nil: nobody watches
	seq, all uint64
}

// begin begins to find out about files of a directory, open as fd.
func (w *watcher) begin(dir *node, fd int) lifetime {
	if w == nil {
		return lifetime{}
	}
	w.s.nodes.mu.Lock()
	defer w.s.nodes.mu.Unlock()
	if dir.watch < 0 && !w.add(dir, fd) {
		return lifetime{}
	}
	return lifetime{w: w, dir: dir, seq: dir.seq, all: w.all}
}

// beginFile begins to find out about one file.
func (w *watcher) beginFile(n *node) lifetime {
	if w == nil {
		return lifetime{}
	}
	w.s.nodes.mu.Lock()
	defer w.s.nodes.mu.Unlock()
	if n.parent == nil || n.parent.watch < 0 {
		return lifetime{w: w, all: w.all}
	}
	return lifetime{w: w, dir: n.parent, seq: n.parent.seq, all: w.all}
}

// add watches a directory. Called with nodes.mu held.
func (w *watcher) add(dir *node, fd int) bool {
	if len(w.dirs) >= maxWatches {
		return false
	}
	wd := -1
	if c, err := w.file.SyscallConn(); err == nil {
		c.Control(func(in uintptr) { wd, err = unix.InotifyAddWatch(int(in), procPath(fd), watchMask) })
		if err != nil {
			return false
		}
	}
	if wd < 0 || w.dirs[int32(wd)] != nil {
		return false // it is known by another name, as after a resume
	}
	dir.watch = int32(wd)
	w.dirs[dir.watch] = dir
	return true
}

// stale reports whether something has changed since the begin, or nothing would tell.
// Called with nodes.mu held.
func (l lifetime) stale() bool { return l.dir == nil || l.dir.seq != l.seq || l.w.all != l.all }

// of returns how long an entry and its attributes stay true. A file with several names
// may be changed by one that nobody watches; a directory's times change with what is
// in it.
func (l lifetime) of(n *node, a *attr) (entry, attrs time.Duration) {
	if l.w == nil {
		return shortLife, shortLife
	}
	l.w.s.nodes.mu.Lock()
	defer l.w.s.nodes.mu.Unlock()
	entry, attrs = shortLife, shortLife
	shared := a.mode&unix.S_IFMT == unix.S_IFREG && a.nlink > 1
	if !l.stale() && !shared {
		entry, attrs = longLife, longLife
	}
	if a.mode&unix.S_IFMT == unix.S_IFDIR {
		attrs = shortLife
		if n != nil && n.watch >= 0 {
			attrs = longLife
		}
	}
	return entry, attrs
}

// outdated reports whether an answer that was sent for long has become untrue before.
func (l lifetime) outdated() bool {
	if l.w == nil || l.dir == nil {
		return false
	}
	l.w.s.nodes.mu.Lock()
	defer l.w.s.nodes.mu.Unlock()
	return l.stale()
}

// news is what has changed and the guest was not told of yet.
type news struct {
	names map[place]bool   // that lead to another file now, or to none, or did to none; false: of a file that the guest has under no such name
	files map[uint64]*node // whose attributes or bytes are others, perhaps
	all   bool
}

func (n *news) full() bool { return len(n.names)+len(n.files) > maxNews }

// run reads what inotify tells until it is closed.
func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 64<<10)
	for {
		n := news{names: map[place]bool{}, files: map[uint64]*node{}}
		w.file.SetReadDeadline(time.Time{})
		for first := true; ; first = false {
			k, err := w.file.Read(buf)
			if err != nil && (first || !os.IsTimeout(err)) {
				return
			}
			if err != nil {
				break
			}
			w.take(&n, buf[:k])
			if first {
				w.file.SetReadDeadline(time.Now().Add(gather))
			}
		}
		w.tell(&n)
	}
}

// take notes events (struct inotify_event).
func (w *watcher) take(n *news, b []byte) {
	t := w.s.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		length := int(binary.NativeEndian.Uint32(b[12:]))
		name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+length]
		b = b[unix.SizeofInotifyEvent+length:]
		if mask&unix.IN_Q_OVERFLOW != 0 || n.full() {
			n.all = true
			w.all++
			continue
		}
		dir := w.dirs[wd]
		if dir == nil {
			continue
		}
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		w.note(n, dir, wd, mask, string(name))
	}
}

// note notes one event. Called with nodes.mu held.
func (w *watcher) note(n *news, dir *node, wd int32, mask uint32, name string) {
	dir.seq++
	switch {
	case mask&unix.IN_IGNORED != 0:
		delete(w.dirs, wd)
		if dir.watch == wd {
			dir.watch = -1
		}
	case mask&nameMask != 0:
		n.names[place{dir.id, name}] = true
	case name == "":
		n.files[dir.id] = dir
	default:
		at := place{dir.id, name}
		if child := w.s.nodes.kids[at]; child != nil {
			n.files[child.id] = child
		} else if !n.names[at] {
			n.names[at] = false
		}
	}
}

// tell tells the guest what is new to it. What it did itself it knows.
func (w *watcher) tell(n *news) {
	if n.all {
		w.s.invalidateAll()
		return
	}
	fresh := false
	for p, named := range n.names {
		if !named {
			if file := w.s.otherName(p); file != nil {
				n.files[file.id] = file
			}
			continue
		}
		known, same := w.s.lookAgain(p)
		if same {
			continue
		}
		fresh = fresh || !known
		w.s.reply(invalidEntry(p.parent, p.name))
		n.files[p.parent] = nil // its times, and what the guest keeps of its names
	}
	for id, file := range n.files {
		if file != nil && !w.s.differs(file) {
			continue
		}
		w.s.reply(invalidInode(id))
	}
	if fresh {
		w.s.event(guest.FolderFresh, &guest.Empty{})
	}
}

// lookAgain reports whether the guest knows a file at a place, and whether the place
// is as it knows it.
func (s *Server) lookAgain(p place) (known, same bool) {
	t := s.nodes
	t.mu.Lock()
	dir, child, ours := t.byID[p.parent], t.kids[p], t.ours[p]
	delete(t.ours, p)
	t.mu.Unlock()
	switch {
	case dir == nil:
		return false, true
	case child != nil:
		fd, _, err := s.locate(child)
		if err == 0 {
			unix.Close(fd)
		}
		return true, err == 0
	case ours:
		_, err := s.peek(dir, p.name)
		return false, err == unix.ENOENT
	}
	return false, false
}

// peek returns what is at a place.
func (s *Server) peek(dir *node, name string) (identity, unix.Errno) {
	fd, _, err := s.locate(dir)
	if err != 0 {
		return identity{}, err
	}
	defer unix.Close(fd)
	f, key, _, err := s.child(fd, name)
	if err == 0 {
		unix.Close(f)
	}
	return key, err
}

// otherName returns the node of a file that the guest has by another name.
func (s *Server) otherName(p place) *node {
	dir, err := s.nodes.get(p.parent)
	if err != 0 {
		return nil
	}
	key, err := s.peek(dir, p.name)
	if err != 0 {
		return nil
	}
	s.nodes.mu.Lock()
	defer s.nodes.mu.Unlock()
	return s.nodes.byKey[key]
}

// differs reports whether a file is not what the guest was told last.
func (s *Server) differs(n *node) bool {
	s.nodes.mu.Lock()
	told := n.told
	s.nodes.mu.Unlock()
	a, err := s.describe(n)
	a.atime, told.atime = unix.StatxTimestamp{}, unix.StatxTimestamp{}
	a.blocks, told.blocks = 0, 0
	return err != 0 || a != told
}

// invalidateAll has the guest ask about everything anew.
func (s *Server) invalidateAll() {
	s.shrink()
	s.refresh()
}

// settle is how long no file may have been forgotten for a guest to have forgotten all
// that it does not use, and settleMost how often that is waited for.
const (
	settle     = 100 * time.Millisecond
	settleMost = 30
)

// resumed has a guest that goes on elsewhere, or was away for a while, ask anew about
// what it has in use. It is about to forget the rest, which need not be told one by one.
func (s *Server) resumed() {
	count := -1
	for range settleMost {
		if now := s.nodes.count(); now == count {
			break
		} else {
			count = now
		}
		select {
		case <-time.After(settle):
		case <-s.closing:
			return
		}
	}
	s.refresh()
}

// refresh has the guest ask anew about the files that it has in use.
func (s *Server) refresh() {
	t := s.nodes
	t.mu.Lock()
	var messages [][]byte
	for _, n := range t.byID {
		messages = append(messages, invalidInode(n.id))
		// Not of directories: a process that works in one would lose its place. Where
		// one was replaced its use is an error that makes the kernel look again.
		if n.parent != nil && n.kind != unix.S_IFDIR {
			messages = append(messages, invalidEntry(n.parent.id, n.name))
		}
	}
	t.mu.Unlock()
	for _, m := range messages {
		s.reply(m)
	}
}
