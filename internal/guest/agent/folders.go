package agent

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// folders are the host's folders that are mounted in the guest, by their paths.
type folders struct {
	mu     sync.Mutex
	byPath map[string]*folder

	forks struct {
		sync.Mutex
		n, percent int
	}
}

// forking has the garbage collector stand still while a process is started. Go starts
// one with a processor of its own held until the program is loaded; that may have to
// be read from a folder, and so by a goroutine here, while the collector would stop
// all goroutines to wait for that processor.
func (fs *folders) forking() (done func()) {
	fs.mu.Lock()
	none := len(fs.byPath) == 0
	fs.mu.Unlock()
	if none {
		return func() {}
	}
	fs.forks.Lock()
	defer fs.forks.Unlock()
	if fs.forks.n++; fs.forks.n == 1 {
		fs.forks.percent = debug.SetGCPercent(-1) // returns when no collection is under way
	}
	return func() {
		fs.forks.Lock()
		defer fs.forks.Unlock()
		if fs.forks.n--; fs.forks.n == 0 {
			debug.SetGCPercent(fs.forks.percent)
		}
	}
}

// folder is one folder of the host. It outlives the stream that serves it.
type folder struct {
	guest.Folder
	a        *Agent
	uid, gid uint32
	fuse     *os.File
	mounting sync.Mutex // held while mounts is used: their descriptors are given to others later
	mounts   []mounted  // what is to be undone, the last first
	waiting  []string   // directories to be read ahead
	reading  bool
	pump     pump
	state    keptState

	attached sync.Mutex // held by the stream that serves it
}

// mounted is a mount of a folder and a descriptor of its root, by which it is found
// also where something else is mounted over it.
type mounted struct {
	path string
	root int
}

const folderFlags = unix.MS_NOSUID | unix.MS_NODEV

// serveFolder serves OpFolder.
func (a *Agent) serveFolder(s stream, req []byte) error {
	var r guest.Folder
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	f, resumed, err := a.folder(r)
	if err != nil {
		return err
	}
	f.attached.Lock()
	defer f.attached.Unlock()
	if err := f.begin(s, resumed); err != nil {
		return err
	}
	over := f.pump.start(s, f)
	defer f.pump.stop()
	if resumed {
		f.shrink()
	} else if err := f.finish(); err != nil {
		a.dropFolder(f)
		s.fail(err)
		s.CloseSend() // before the pump's end, which resets the stream
		return nil
	}
	if err := f.pump.reply(&guest.Empty{}); err != nil {
		return err
	}
	<-over
	return nil
}

// folder finds the folder of a request, or mounts it.
func (a *Agent) folder(r guest.Folder) (f *folder, resumed bool, err error) {
	r.Path, err = a.path(r.Path)
	if err != nil {
		return nil, false, err
	}
	u, err := a.users.lookup(r.User)
	if err != nil {
		return nil, false, err
	}
	a.folders.mu.Lock()
	f = a.folders.byPath[r.Path]
	a.folders.mu.Unlock()
	if f != nil && f.Folder == r && f.pump.alive() {
		return f, true, nil
	}
	if f != nil {
		a.dropFolder(f)
	}
	f = &folder{Folder: r, a: a, uid: u.uid, gid: u.gid}
	if err := f.mount(); err != nil {
		f.unmount()
		return nil, false, err
	}
	a.folders.mu.Lock()
	defer a.folders.mu.Unlock()
	if a.folders.byPath == nil {
		a.folders.byPath = map[string]*folder{}
	}
	a.folders.byPath[r.Path] = f
	return f, false, nil
}

// begin says who the files belong to and gives the host back what it left here.
func (f *folder) begin(s stream, resumed bool) error {
	b := guest.FolderBegun{UID: int(f.uid), GID: int(f.gid), Resumed: resumed}
	var parts [][]byte
	if resumed {
		parts = f.state.parts()
		b.Parts = len(parts)
	}
	if err := s.queue(guest.KindEvent, packEvent(guest.FolderBegin, &b)); err != nil {
		return err
	}
	for _, p := range parts {
		if err := s.queue(guest.KindEvent, p); err != nil {
			return err
		}
	}
	s.Flush()
	return nil
}

// mount mounts the folder itself: at its place, or where only the layer over it finds
// it. Nothing is asked of the host yet.
func (f *folder) mount() error {
	target := f.target()
	if err := os.MkdirAll(f.Path, 0o755); err != nil {
		return failed("make mount point", f.Path, err)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return failed("make mount point", target, err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return api.Errorf(api.Unavailable, "mount folder at %q: open /dev/fuse: %w", f.Path, err)
	}
	data := "fd=" + strconv.Itoa(fd) + ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
	flags := uintptr(folderFlags)
	if !f.Writable {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("host", target, "fuse", flags, data); err != nil {
		unix.Close(fd)
		return failed("mount folder at", f.Path, err)
	}
	// Only now: before, its poll is an error for ever.
	f.fuse = os.NewFile(uintptr(fd), "/dev/fuse")
	return f.mounted(target)
}

func (f *folder) mounted(path string) error {
	root, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		root = -1
	}
	f.mounts = append(f.mounts, mounted{path, root})
	if err != nil {
		return failed("open folder", path, err)
	}
	return nil
}

// dir is a directory of the folder's own on the writable disk, which no path of the
// guest leads to.
func (f *folder) dir(name string) string {
	base := f.a.o.Writable
	if base == "" {
		base = "/run/.smolvm"
	}
	// Any name that is one file's does: two paths have two.
	id := strings.ReplaceAll(strings.ReplaceAll(f.Path, "%", "%25"), "/", "%2F")
	return filepath.Join(base, "folders", strings.ReplaceAll(id, ":", "%3A"), name)
}

// finish puts the guest's own layer over a folder that is not to be changed. The host
// answers by now.
func (f *folder) finish() error {
	if f.Writable {
		return nil
	}
	lower, upper, work := f.dir("lower"), f.dir("upper"), f.dir("work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return failed("make layer", d, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return failed("read folder", f.Path, err)
	}
	// The layer's root is what shows as the folder's.
	unix.Chown(upper, int(f.uid), int(f.gid))
	unix.Chmod(upper, st.Mode&0o7777)
	// Options as those of the root, but for directories, which may be renamed here:
	// what tells changes apart does not look into this layer.
	o := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work +
		",xino=on,redirect_dir=on,metacopy=off,index=off"
	if err := unix.Mount("overlay", f.Path, "overlay", folderFlags, o); err != nil {
		return failed("put a layer over folder", f.Path, err)
	}
	return f.mounted(f.Path)
}

// shrink has the kernel forget all files that are not in use: the layer's first, as
// they hold those below. Mounting a file system again as it is does that.
func (f *folder) shrink() {
	f.mounting.Lock()
	defer f.mounting.Unlock()
	for _, m := range slices.Backward(f.mounts) {
		f.remount(m)
	}
}

// shrinkLayer is shrink for the layer alone, which has no other way to learn that
// there is a file where there was none.
func (f *folder) shrinkLayer() {
	f.mounting.Lock()
	defer f.mounting.Unlock()
	if n := len(f.mounts); n > 1 {
		f.remount(f.mounts[n-1])
	}
}

func (f *folder) remount(m mounted) {
	flags := uintptr(folderFlags | unix.MS_REMOUNT)
	if !f.Writable && m.path != f.Path {
		flags |= unix.MS_RDONLY
	}
	unix.Mount("", "/proc/self/fd/"+strconv.Itoa(m.root), "", flags, "")
}

// maxAhead bounds the directories that wait to be read ahead.
const maxAhead = 64

// ahead reads a directory of the host's, so that the kernel knows its files before
// they are asked for one by one. One after the other: this is a favour, and takes
// time from programs.
func (f *folder) ahead(path string) {
	f.mounting.Lock()
	defer f.mounting.Unlock()
	if len(f.waiting) >= maxAhead || len(f.mounts) == 0 {
		return
	}
	f.waiting = append(f.waiting, path)
	if !f.reading {
		f.reading = true
		f.a.work.Go(f.readAhead)
	}
}

func (f *folder) readAhead() {
	buf := make([]byte, 32<<10)
	for {
		path, root := f.nextAhead()
		if root < 0 {
			return
		}
		how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
		fd, err := unix.Openat2(root, "./"+path, &how)
		unix.Close(root)
		if err != nil {
			continue
		}
		for {
			if n, err := unix.Getdents(fd, buf); n <= 0 || err != nil {
				break
			}
		}
		unix.Close(fd)
	}
}

// nextAhead returns the directory to read next and a descriptor of the folder; -1 at
// the end.
func (f *folder) nextAhead() (path string, root int) {
	f.mounting.Lock()
	defer f.mounting.Unlock()
	if len(f.waiting) > 0 && len(f.mounts) > 0 {
		path, f.waiting = f.waiting[0], f.waiting[1:]
		if fd, err := unix.FcntlInt(uintptr(f.mounts[0].root), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			return path, fd
		}
	}
	f.reading, f.waiting = false, nil
	return "", -1
}

// abort has whoever waits for an answer of the host get an error. To close the device
// would not do: it stays open for as long as a notice waits for who waits for an answer.
func (f *folder) abort() {
	if f.fuse != nil {
		unix.Unmount(f.target(), unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}

// target is where the host's folder itself is mounted.
func (f *folder) target() string {
	if f.Writable {
		return f.Path
	}
	return f.dir("lower")
}

// unmount takes the folder away, also from those who use it.
func (f *folder) unmount() {
	f.abort()
	if f.fuse != nil {
		f.fuse.Close()
	}
	f.mounting.Lock()
	defer f.mounting.Unlock()
	for _, m := range slices.Backward(f.mounts) {
		closeFD(&m.root)
		if m.path == f.target() {
			continue // it is gone, and what is there now is another's
		}
		unix.Unmount(m.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	f.mounts = nil
}

func (a *Agent) dropFolder(f *folder) {
	a.folders.mu.Lock()
	if a.folders.byPath[f.Path] == f {
		delete(a.folders.byPath, f.Path)
	}
	a.folders.mu.Unlock()
	f.unmount()
}

// keepFolders serves OpFolders.
func (a *Agent) keepFolders(r guest.Folders) error {
	keep := map[string]bool{}
	for _, p := range r.Paths {
		path, err := a.path(p)
		if err != nil {
			return err
		}
		keep[path] = true
	}
	for _, f := range a.allFolders() {
		if !keep[f.Path] {
			a.dropFolder(f)
		}
	}
	return nil
}

// allFolders returns the folders, those below others first.
func (a *Agent) allFolders() []*folder {
	a.folders.mu.Lock()
	defer a.folders.mu.Unlock()
	var list []*folder
	for _, f := range a.folders.byPath {
		list = append(list, f)
	}
	slices.SortFunc(list, func(x, y *folder) int { return strings.Compare(y.Path, x.Path) })
	return list
}

// saveFolders has the folders' requests end, and the host leave here what it must
// know if the guest goes on elsewhere. Processes stand still already. What fails is
// not waited for: who uses that folder then gets errors after a resume.
func (a *Agent) saveFolders() {
	for _, f := range a.allFolders() {
		f.sync()
		f.pump.save()
	}
}

// sync sends what programs have written through memory to the host.
func (f *folder) sync() {
	if !f.Writable || len(f.mounts) == 0 {
		return
	}
	if fd, err := unix.Open(f.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		unix.Syncfs(fd)
		unix.Close(fd)
	}
}
