package agent

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// proc is a process that runs, and its files.
type proc struct {
	a       *Agent
	child   *child
	group   *cgroup
	groups  *cgroups // where group came from
	f       *files
	pidfd   int
	started time.Time

	mu       sync.Mutex
	over     bool // the process has ended, its group may be another's
	timedOut bool

	kept atomic.Bool // runs on without its stream
}

// procSet is the processes that streams run.
type procSet struct {
	mu sync.Mutex
	m  map[*proc]int // to the session of the stream
}

func (t *procSet) add(p *proc, session int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[*proc]int{}
	}
	t.m[p] = session
}

func (t *procSet) remove(p *proc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, p)
}

// keep has those of other sessions than the one that is on run on without their
// streams.
func (t *procSet) keep(on int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, session := range t.m {
		if session != on {
			p.kept.Store(true)
		}
	}
}

// sink takes the output of a process. Both methods are called by one goroutine.
type sink interface {
	// output takes bytes, which are valid during the call only, and may wait.
	output(k guest.Kind, p []byte)
	// flush is called before waiting for more.
	flush()
}

// kill ends a process that still runs and, where there is a control group, all
// it started.
func (p *proc) kill(timedOut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.timedOut = timedOut
	p.a.reaper.signal(p.child, syscall.SIGKILL)
	if p.group != nil {
		p.group.killAll()
	}
}

const (
	// linger is how long the first flush waits for the process to end: most
	// commands are short, and their start, output and end then go out in one write.
	linger = 20 * time.Millisecond
	// lingerOutput is the same once there is output, for which a person may wait.
	lingerOutput = 2 * time.Millisecond
)

// run passes the output on until the process has ended, and returns how.
func (p *proc) run(out sink, timeout time.Duration) guest.Exit {
	if timeout > 0 {
		t := time.AfterFunc(timeout, func() { p.kill(true) })
		defer t.Stop()
	}
	buf := bufPool.Get().(*[guest.MaxPayload]byte)
	defer bufPool.Put(buf)
	until, flushed := p.started.Add(linger), false
	for {
		wait := max(0, int(time.Until(until)/time.Millisecond))
		if flushed {
			wait = forever
		}
		ready, ended := p.poll(out, buf[:], wait)
		switch {
		case ended:
			return p.finish(out, buf[:])
		case ready:
			flushed = false
			if now := time.Now().Add(lingerOutput); now.Before(until) {
				until = now
			}
		default:
			out.flush()
			flushed = true
		}
	}
}

// forever is poll(2)'s timeout for none.
const forever = -1

var bufPool = sync.Pool{New: func() any { return new([guest.MaxPayload]byte) }}

// poll waits, at most ms milliseconds, for output or the end. It reads both pipes
// in turn, so that what was written in turns is passed on in turns.
func (p *proc) poll(out sink, buf []byte, ms int) (ready, ended bool) {
	fds := [3]unix.PollFd{
		{Fd: int32(p.pidfd), Events: unix.POLLIN},
		{Fd: int32(p.f.out), Events: unix.POLLIN}, // -1 is left out
		{Fd: int32(p.f.err), Events: unix.POLLIN},
	}
	n, err := unix.Poll(fds[:], ms)
	for err == unix.EINTR {
		n, err = unix.Poll(fds[:], ms)
	}
	if n == 0 || fds[0].Revents != 0 {
		return false, fds[0].Revents != 0
	}
	p.read(out, buf, fds[1].Revents, &p.f.out, guest.KindStdout)
	p.read(out, buf, fds[2].Revents, &p.f.err, guest.KindStderr)
	return true, false
}

// read passes on what one read of a descriptor gives, and closes it at its end.
func (p *proc) read(out sink, buf []byte, events int16, fd *int, k guest.Kind) int {
	if events == 0 || *fd < 0 {
		return 0
	}
	n, err := unix.Read(*fd, buf)
	switch {
	case n > 0:
		out.output(k, buf[:n])
		return n
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0
	}
	// A terminal that nobody has open any more reads EIO.
	closeFD(fd)
	return 0
}

// pipeSize is what a pipe holds at most, in bytes: all that an ended process can
// have left in one. More comes from processes that it left behind.
const pipeSize = 64 << 10

// finish takes the status and what is still to be read.
func (p *proc) finish(out sink, buf []byte) guest.Exit {
	p.a.reaper.collect(p.child)
	wall := time.Since(p.started)
	for left := [2]int{pipeSize, pipeSize}; ; {
		n := 0
		if left[0] > 0 {
			n += p.read(out, buf[:min(len(buf), left[0])], unix.POLLIN, &p.f.out, guest.KindStdout)
			left[0] -= n
		}
		if left[1] > 0 {
			m := p.read(out, buf[:min(len(buf), left[1])], unix.POLLIN, &p.f.err, guest.KindStderr)
			left[1] -= m
			n += m
		}
		if n == 0 {
			break
		}
	}
	e := exitOf(p.child, wall)
	e.TimedOut, e.OOM = p.close()
	e.OOM = e.OOM && e.Code != 0 && !e.TimedOut
	return e
}

// close frees what the process held, and returns why it was killed, if it was.
func (p *proc) close() (timedOut, oom bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	oom = p.group.oom()
	p.f.close() // wakes a write that waits
	closeFD(&p.pidfd)
	p.groups.release(p.group)
	return p.timedOut, oom
}

func exitOf(c *child, wall time.Duration) guest.Exit {
	e := guest.Exit{
		WallMS:   wall.Milliseconds(),
		UserMS:   c.usage.Utime.Nano() / int64(time.Millisecond),
		SystemMS: c.usage.Stime.Nano() / int64(time.Millisecond),
	}
	if c.status.Signaled() {
		e.Code = 128 + int(c.status.Signal())
		e.Signal = unix.SignalName(c.status.Signal())
		return e
	}
	e.Code = c.status.ExitStatus()
	return e
}

// message handles what the host sends to a process. An error means that the
// message makes no sense; a process that has ended takes everything.
func (p *proc) message(m guest.Message) error {
	switch m.Kind {
	case guest.KindData:
		p.write(m.Payload)
		return nil
	case guest.KindResize:
		var s guest.Size
		if err := unmarshal(m.Payload, &s); err != nil {
			return err
		}
		return p.f.resize(s)
	case guest.KindSignal:
		var s guest.SignalName
		if err := unmarshal(m.Payload, &s); err != nil {
			return err
		}
		sig, err := signalByName(s.Name)
		if err != nil {
			return err
		}
		p.a.reaper.signal(p.child, sig)
		return nil
	}
	return api.Errorf(api.Invalid, "a message of kind %d to a process", m.Kind)
}

// endOfTransmission is what a terminal takes for the end of input.
const endOfTransmission = 4

// write writes input; none ends it.
func (p *proc) write(b []byte) {
	if p.f.in == nil {
		return
	}
	if len(b) == 0 && p.f.tty {
		b = []byte{endOfTransmission}
	}
	if len(b) == 0 {
		p.f.in.Close()
		return
	}
	// An error means that the process reads no more, which is its affair.
	p.f.in.Write(b)
}

// signalByName accepts "SIGTERM", "TERM", "term" and "15".
func signalByName(name string) (syscall.Signal, error) {
	if sig := unix.SignalNum(upper(name)); sig != 0 {
		return sig, nil
	}
	if sig := unix.SignalNum("SIG" + upper(name)); sig != 0 {
		return sig, nil
	}
	n := 0
	for _, c := range name {
		if c < '0' || c > '9' || n > maxSignal {
			n = 0
			break
		}
		n = 10*n + int(c-'0')
	}
	if n < 1 || n > maxSignal {
		return 0, api.Errorf(api.Invalid, "signal %q is not known", name)
	}
	return syscall.Signal(n), nil
}

const maxSignal = 64

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
