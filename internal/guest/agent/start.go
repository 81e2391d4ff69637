package agent

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/undo"
	"golang.org/x/sys/unix"
)

// files are the ends of a process's files: child's are closed once it runs,
// the others are the agent's. -1 where there is none.
type files struct {
	child      [3]int
	out, err   int      // to read
	in         *os.File // to write; nil: the process has no input
	tty        bool
	closeChild []int
}

func newFiles() *files { return &files{out: -1, err: -1} }

// open makes the files that a request wants.
func (f *files) open(e *guest.Exec, u user) error {
	if e.TTY {
		return f.openTTY(e, u)
	}
	if err := f.openInput(e.Stdin); err != nil {
		return err
	}
	var err error
	if f.out, f.child[1], err = f.pipe(); err != nil {
		return err
	}
	f.err, f.child[2], err = f.pipe()
	return err
}

func (f *files) openInput(want bool) error {
	if !want {
		null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f.child[0] = null
		f.closeChild = append(f.closeChild, null)
		return nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	f.child[0] = p[0]
	f.closeChild = append(f.closeChild, p[0])
	return f.setInput(p[1])
}

// setInput makes a file of a descriptor whose writes wait without a thread.
func (f *files) setInput(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	f.in = os.NewFile(uintptr(fd), "input")
	return nil
}

// pipe returns a pipe whose reading end does not block.
func (f *files) pipe() (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	f.closeChild = append(f.closeChild, p[1])
	return p[0], p[1], unix.SetNonblock(p[0], true)
}

// Where the request names no size of the terminal.
const (
	defaultRows = 24
	defaultCols = 80
)

func (f *files) openTTY(e *guest.Exec, u user) error {
	f.tty = true
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return failed("open a terminal by", "/dev/ptmx", err)
	}
	f.out = m
	var unlock int32
	if err := ioctl(m, unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlock))); err != nil {
		return err
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	slave := int(s)
	f.closeChild = append(f.closeChild, slave)
	f.child = [3]int{slave, slave, slave}
	// As login does; a user who is not root could not open /dev/tty's terminal otherwise.
	unix.Fchown(slave, int(u.uid), -1)
	unix.Fchmod(slave, 0o620)
	rows, cols := e.Rows, e.Cols
	if rows == 0 || cols == 0 {
		rows, cols = defaultRows, defaultCols
	}
	if err := resize(m, rows, cols); err != nil {
		return err
	}
	in, err := unix.FcntlInt(uintptr(m), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return f.setInput(in)
}

// resize sets the size of the terminal, if it is one and still there.
func (f *files) resize(s guest.Size) error {
	if !f.tty {
		return nil
	}
	rc, err := f.in.SyscallConn()
	if err != nil {
		return nil
	}
	rc.Control(func(fd uintptr) { err = resize(int(fd), s.Rows, s.Cols) })
	return err
}

func resize(fd, rows, cols int) error {
	if rows <= 0 || rows > maxSide || cols <= 0 || cols > maxSide {
		return api.Errorf(api.Invalid, "terminal size %dx%d is out of range", rows, cols)
	}
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
}

func ioctl(fd int, req, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg); errno != 0 {
		return errno
	}
	return nil
}

// closeChildEnds closes what only the process needs.
func (f *files) closeChildEnds() {
	for _, fd := range f.closeChild {
		unix.Close(fd)
	}
	f.closeChild = nil
}

// close closes the agent's ends.
func (f *files) close() {
	f.closeChildEnds()
	closeFD(&f.out)
	closeFD(&f.err)
	if f.in != nil {
		f.in.Close()
	}
}

func closeFD(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
		*fd = -1
	}
}

// start starts a process of a plan. While processes are frozen it waits.
func (a *Agent) start(s stream, pl *plan, e *guest.Exec) (*proc, error) {
	if !a.freezer.enter(s.over) {
		return nil, api.Errorf(api.Unavailable, "run %q: nobody waits for it any more", pl.file)
	}
	defer a.freezer.starts.Done()
	return a.startIn(&a.cgroups, pl, e)
}

// startIn starts a process in one of the groups.
func (a *Agent) startIn(groups *cgroups, pl *plan, e *guest.Exec) (*proc, error) {
	if a.ending.Load() {
		return nil, api.Errorf(api.Unavailable, "run %q: the guest is shutting down", pl.file)
	}
	var u undo.Stack
	defer u.Run()
	f := newFiles()
	u.Add(f.close)
	if err := f.open(e, pl.user); err != nil {
		return nil, err
	}
	group := groups.take()
	u.Add(func() { groups.release(group) })
	pidfd := -1
	defer a.folders.forking()()
	c, err := a.reaper.start(func() (int, error) { return fork(pl, f, group, &pidfd) })
	if err != nil {
		return nil, startError(pl, err)
	}
	u.Success()
	f.closeChildEnds()
	return &proc{a: a, child: c, group: group, groups: groups, f: f, pidfd: pidfd, started: time.Now()}, nil
}

// fork starts the process in a session, and so a process group, of its own.
func fork(pl *plan, f *files, group *cgroup, pidfd *int) (int, error) {
	sys := &syscall.SysProcAttr{Setsid: true, PidFD: pidfd}
	if f.tty {
		sys.Setctty, sys.Ctty = true, 0
	}
	if os.Geteuid() == 0 {
		sys.Credential = &syscall.Credential{Uid: pl.user.uid, Gid: pl.user.gid, Groups: pl.user.groups}
	} else if int(pl.user.uid) != os.Geteuid() {
		return 0, syscall.EPERM
	}
	if group != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, group.dir
	}
	return syscall.ForkExec(pl.file, pl.argv, &syscall.ProcAttr{
		Dir:   pl.dir,
		Env:   pl.env,
		Files: []uintptr{uintptr(f.child[0]), uintptr(f.child[1]), uintptr(f.child[2])},
		Sys:   sys,
	})
}

// startError says what it means that the kernel did not start a program whose
// file is there.
func startError(pl *plan, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return api.Errorf(api.NotFound, "run %q: the interpreter or loader that it names is missing", pl.file)
	case errors.Is(err, syscall.ENOEXEC):
		return api.Errorf(api.Invalid, "run %q: not a program for this machine, and a script without #! line", pl.file)
	case errors.Is(err, syscall.E2BIG):
		return api.Errorf(api.Invalid, "run %q: arguments and environment are too long for the guest's kernel", pl.file)
	case errors.Is(err, syscall.EAGAIN):
		return api.Errorf(api.Exhausted, "run %q: the guest has too many processes", pl.file)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return api.Errorf(api.Denied, "run %q in %q as user %q: %w", pl.file, pl.dir, pl.user.name, err)
	}
	return failed("run", pl.file, err)
}
