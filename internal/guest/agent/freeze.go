package agent

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// freezer stops the guest's processes, and the start of new ones.
//
// They stand still until the host says Thaw or Setup. No clock thaws them: the
// guest may be a copy by then, and none can tell. But a host that forgot to thaw
// is still in the session in which it froze, which no copy is; what it asks for
// next, forgotten later, thaws.
type freezer struct {
	dir string // whose groups hold all processes but the agent; empty: no groups

	mu      sync.Mutex
	thawed  chan struct{} // closed by the thaw; nil while all run
	since   time.Time
	session int // that froze
	groups  []frozenGroup
	alone   bool           // there was no TCP connection when all stood still, so there is none
	starts  sync.WaitGroup // of processes, under way
}

// frozenGroup is a control group that stands still.
type frozenGroup struct{ freeze, events int } // descriptors

// freezeTime bounds the wait for processes that are in the kernel: each stops
// before its next own instruction in any case.
const freezeTime = 50 * time.Millisecond

// enter waits until processes may be started, or until over is closed. The caller
// calls starts.Done when it has started one.
func (z *freezer) enter(over func() <-chan struct{}) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	for z.thawed != nil {
		thawed := z.thawed
		z.mu.Unlock()
		select {
		case <-thawed:
			z.mu.Lock()
		case <-over():
			z.mu.Lock()
			return false
		}
	}
	z.starts.Add(1)
	return true
}

// freeze stops all processes for a session of the host.
func (z *freezer) freeze(session int) {
	z.mu.Lock()
	if z.thawed == nil {
		z.thawed = make(chan struct{})
	}
	z.since, z.session = time.Now(), session
	z.mu.Unlock()
	// A process that stops between fork and exec would hold up its parent, the agent.
	z.starts.Wait()
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.thawed == nil {
		return
	}
	if z.groups == nil {
		z.groups = freezeGroups(z.dir)
	}
	z.alone = z.dir != "" && awaitFrozen(z.groups) && !anyTCP()
}

// connected reports whether there may be a TCP connection.
func (z *freezer) connected() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return !z.alone
}

// awaitThaw waits until all processes run. Where none can be frozen it does not.
func (z *freezer) awaitThaw() {
	z.mu.Lock()
	thawed := z.thawed
	z.mu.Unlock()
	if thawed != nil && z.dir != "" {
		<-thawed
	}
}

// frozen reports whether processes stand still.
func (z *freezer) frozen() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.thawed != nil
}

// forgotten is how long a host leaves a guest frozen that it has not forgotten.
const forgotten = 30 * time.Second

// heard notes that a host asks for something.
func (z *freezer) heard(session int) {
	z.mu.Lock()
	late := z.thawed != nil && z.session == session && time.Since(z.since) > forgotten
	z.mu.Unlock()
	if late {
		z.thaw()
	}
}

// thaw has all processes run on.
func (z *freezer) thaw() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.thawed == nil {
		return
	}
	for _, g := range z.groups {
		unix.Pwrite(g.freeze, []byte("0"), 0)
		unix.Close(g.freeze)
		unix.Close(g.events)
	}
	z.groups, z.alone = nil, false
	close(z.thawed)
	z.thawed = nil
}

// freezeGroups freezes every group in dir that has processes: the agent's, and
// those that root of the guest made beside it. In a template there are none, and
// nothing to thaw.
func freezeGroups(dir string) []frozenGroup {
	if dir == "" {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	var groups []frozenGroup
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if g, ok := freezeGroup(filepath.Join(dir, e.Name())); ok {
			groups = append(groups, g)
		}
	}
	return groups
}

func freezeGroup(path string) (g frozenGroup, ok bool) {
	var err error
	if g.freeze, err = unix.Open(path+"/cgroup.freeze", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return g, false
	}
	if g.events, err = unix.Open(path+"/cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		unix.Close(g.freeze)
		return g, false
	}
	if numberIn(g.events, "populated") == 0 {
		unix.Close(g.freeze)
		unix.Close(g.events)
		return g, false
	}
	unix.Pwrite(g.freeze, []byte("1"), 0)
	return g, true
}

// awaitFrozen waits until all processes of the groups stand still, but no longer
// than freezeTime, and reports whether they do.
func awaitFrozen(groups []frozenGroup) bool {
	deadline := time.Now().Add(freezeTime)
	for _, g := range groups {
		for numberIn(g.events, "frozen") != 1 {
			left := time.Until(deadline)
			if left <= 0 {
				return false
			}
			// The kernel says by POLLPRI that the file has changed since it was read.
			unix.Poll([]unix.PollFd{{Fd: int32(g.events), Events: unix.POLLPRI}}, int(left/time.Millisecond)+1)
		}
	}
	return true
}

// quiesce serves OpQuiesce.
func (a *Agent) quiesce(s stream, req []byte) error {
	var r guest.Quiesce
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	if r.Freeze {
		a.freezer.freeze(s.Session())
		a.saveFolders()
	}
	if r.Sync {
		if err := a.sync(); err != nil {
			a.freezer.thaw()
			return err
		}
	}
	return s.reply(&guest.Empty{})
}

// thaw serves OpThaw.
func (a *Agent) thaw(t guest.Thaw) error {
	err := setClock(t.TimeNS)
	a.freezer.thaw()
	return err
}

// sync writes the file system of the writable layer to its disk.
func (a *Agent) sync() error {
	dir := a.o.Writable
	if dir == "" {
		unix.Sync()
		return nil
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("sync", "/", err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return failed("sync", "/", err)
	}
	return nil
}
