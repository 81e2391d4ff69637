package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// cgroups hands out a control group for each process that is started, so that
// all it started can be killed, also what left its process group. Making one
// costs more than the rest of starting a process, so empty ones are used again.
type cgroups struct {
	dir string // empty: no groups

	mu    sync.Mutex
	made  int
	free  []*cgroup
	stale []*cgroup // the process has ended, others that it started have not
}

// cgroup is one group. Its files are held open: opening costs as much as making.
type cgroup struct {
	path   string
	dir    int // descriptors
	kill   int
	events int // cgroup.events
	memory int // memory.events; -1 where there is no memory controller
	ooms   int // count of kills in memory when the group was taken
}

const (
	// maxFree bounds the groups that wait to be used again.
	maxFree = 16
	// staleLooks bounds how many stale groups one release looks at.
	staleLooks = 4
)

// take returns an empty group, and nil where there are no groups.
func (c *cgroups) take() *cgroup {
	if c.dir == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.free); n > 0 {
		g := c.free[n-1]
		c.free = c.free[:n-1]
		return g
	}
	c.made++
	g, err := newCgroup(filepath.Join(c.dir, "x"+strconv.Itoa(c.made)))
	if err != nil {
		return nil // process groups have to do
	}
	return g
}

func newCgroup(path string) (*cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil && !os.IsExist(err) {
		return nil, err
	}
	g := &cgroup{path: path, dir: -1, kill: -1, events: -1, memory: -1}
	for _, f := range []struct {
		name string
		flag int
		fd   *int
		need bool
	}{
		{"", unix.O_DIRECTORY | unix.O_RDONLY, &g.dir, true},
		{"cgroup.kill", unix.O_WRONLY, &g.kill, true},
		{"cgroup.events", unix.O_RDONLY, &g.events, true},
		{"memory.events", unix.O_RDONLY, &g.memory, false},
	} {
		fd, err := unix.Open(filepath.Join(path, f.name), f.flag|unix.O_CLOEXEC, 0)
		if err != nil && f.need {
			g.remove()
			return nil, err
		}
		if err == nil {
			*f.fd = fd
		}
	}
	g.ooms = numberIn(g.memory, "oom_kill")
	return g, nil
}

// release gives a group back. One that still has processes is kept aside.
func (c *cgroups) release(g *cgroup) {
	if g == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = append(c.stale, g)
	// The newest is most likely empty; of the others the oldest are looked at.
	looks := min(len(c.stale), staleLooks)
	for range looks {
		last := len(c.stale) - 1
		s := c.stale[last]
		c.stale = c.stale[:last]
		if numberIn(s.events, "populated") == 0 {
			c.keep(s)
			continue
		}
		c.stale = append([]*cgroup{s}, c.stale...)
	}
}

func (c *cgroups) keep(g *cgroup) {
	if len(c.free) >= maxFree {
		g.remove()
		return
	}
	g.ooms = numberIn(g.memory, "oom_kill")
	c.free = append(c.free, g)
}

func (c *cgroups) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range append(c.free, c.stale...) {
		g.remove()
	}
	c.free, c.stale = nil, nil
}

// killAll kills every process of the group.
func (g *cgroup) killAll() error {
	_, err := unix.Write(g.kill, []byte("1"))
	return err
}

// oom reports whether the kernel killed a process of the group for memory.
func (g *cgroup) oom() bool {
	return g != nil && numberIn(g.memory, "oom_kill") > g.ooms
}

// numberIn reads a number from a file of lines "name number"; -1 where it cannot.
func numberIn(fd int, name string) int {
	var b [512]byte
	n, err := syscall.Pread(fd, b[:], 0)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b[:n])) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == name {
			if i, err := strconv.Atoi(v); err == nil {
				return i
			}
		}
	}
	return -1
}

func (g *cgroup) remove() {
	for _, fd := range []int{g.dir, g.kill, g.events, g.memory} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	os.Remove(g.path)
}
