package agent

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper takes the exit statuses of children. One place does, so that none is
// taken twice: process 1 must wait for any child, orphans too, and such a wait
// would steal the statuses of the processes that the agent runs.
//
// The goroutine of a process learns of its end by a pidfd and collects at once;
// the reaper's own goroutine exists only in process 1 and takes what is left.
type reaper struct {
	all     bool
	started chan struct{} // a child was started
	ended   chan struct{} // a child was reaped

	mu    sync.Mutex
	procs map[int]*child
}

// child is a process whose status is wanted.
type child struct {
	pid    int
	ended  chan struct{} // closed when status is there
	status syscall.WaitStatus
	usage  syscall.Rusage
	reaped bool
}

func (r *reaper) init(all bool) {
	r.all = all
	r.procs = map[int]*child{}
	r.started = make(chan struct{}, 1)
	r.ended = make(chan struct{}, 1)
	if all {
		// It ends with the machine: process 1 does not return.
		go r.reapAll()
	}
}

// start starts a process. The lock keeps reapAll from taking the status of a
// child that is not known yet.
func (r *reaper) start(f func() (pid int, err error)) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := f()
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, ended: make(chan struct{})}
	r.procs[pid] = c
	poke(r.started)
	return c, nil
}

// collect takes the status of a child that has ended.
func (r *reaper) collect(c *child) {
	r.mu.Lock()
	if !c.reaped {
		var ws syscall.WaitStatus
		var ru syscall.Rusage
		if pid, _ := wait4(c.pid, &ws, syscall.WNOHANG, &ru); pid == c.pid {
			r.done(c, ws, ru)
		}
	}
	r.mu.Unlock()
	// If it is not there by now, reapAll has it in hand.
	<-c.ended
}

// done is called with mu held.
func (r *reaper) done(c *child, ws syscall.WaitStatus, ru syscall.Rusage) {
	c.status, c.usage, c.reaped = ws, ru, true
	delete(r.procs, c.pid)
	close(c.ended)
	poke(r.ended)
}

// poke notes that something happened for whoever waits for it.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// signal sends a signal to the group of a child, never to that of a process
// which got the same number later.
func (r *reaper) signal(c *child, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.reaped {
		return syscall.ESRCH
	}
	return syscall.Kill(-c.pid, sig)
}

func (r *reaper) reapAll() {
	for {
		var ws syscall.WaitStatus
		var ru syscall.Rusage
		pid, err := wait4(-1, &ws, 0, &ru)
		if err != nil {
			<-r.started
			continue
		}
		r.mu.Lock()
		if c := r.procs[pid]; c != nil {
			r.done(c, ws, ru)
		}
		r.mu.Unlock()
		poke(r.ended)
	}
}

// awaitNone waits until process 1 has no child left, which is when nothing else
// runs.
func (r *reaper) awaitNone(limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if err == unix.ECHILD {
			return
		}
		select {
		case <-r.ended:
		case <-t.C:
			return
		}
	}
}

func wait4(pid int, ws *syscall.WaitStatus, flags int, ru *syscall.Rusage) (int, error) {
	for {
		n, err := syscall.Wait4(pid, ws, flags|unix.WALL, ru)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
