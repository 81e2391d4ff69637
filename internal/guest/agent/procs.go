package agent

import (
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

const (
	// maxRunning bounds the background processes that run.
	maxRunning = 256
	// maxEnded bounds those that have ended and are kept with their output; the
	// oldest is forgotten first.
	maxEnded = 64
)

// procTable holds the background processes.
type procTable struct {
	mu    sync.Mutex
	last  int
	procs []*detached // in order of start
}

// detached is a background process.
type detached struct {
	proc *proc
	log  *outputLog

	mu   sync.Mutex
	info guest.Proc
}

func (d *detached) snapshot() guest.Proc {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.info
}

// execDetached starts a background process.
func (a *Agent) execDetached(s stream, pl *plan, e *guest.Exec) error {
	if a.procs.running() >= maxRunning {
		return api.Errorf(api.Exhausted, "run %q in the background: %d background processes run already", pl.file, maxRunning)
	}
	p, err := a.start(s, pl, e)
	if err != nil {
		return err
	}
	d := a.procs.add(p, guest.Proc{
		PID: p.child.pid, Tag: e.Tag, Argv: e.Argv, User: pl.user.name,
		StartNS: time.Now().UnixNano(), Running: true,
	})
	a.work.Go(func() {
		exit := p.runLimited(d.log, e)
		d.mu.Lock()
		d.info.Running, d.info.Exit = false, exit
		d.mu.Unlock()
		d.log.close()
		a.procs.dropEnded()
	})
	return s.reply(&guest.Started{Proc: d.info.Proc, PID: d.info.PID})
}

func (t *procTable) add(p *proc, info guest.Proc) *detached {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	info.Proc = "p" + strconv.Itoa(t.last)
	d := &detached{proc: p, log: newOutputLog(), info: info}
	t.procs = append(t.procs, d)
	return d
}

func (t *procTable) running() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, d := range t.procs {
		if d.snapshot().Running {
			n++
		}
	}
	return n
}

// dropEnded forgets the oldest ended processes beyond maxEnded.
func (t *procTable) dropEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	ended := 0
	for _, d := range t.procs {
		if !d.snapshot().Running {
			ended++
		}
	}
	t.procs = slices.DeleteFunc(t.procs, func(d *detached) bool {
		if ended <= maxEnded || d.snapshot().Running {
			return false
		}
		ended--
		return true
	})
}

func (t *procTable) find(name string) (*detached, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.procs {
		if d.info.Proc == name {
			return d, nil
		}
	}
	return nil, api.Errorf(api.NotFound, "background process %q is not known", name)
}

func (t *procTable) list() (guest.ProcList, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var l guest.ProcList
	for _, d := range t.procs {
		l.Procs = append(l.Procs, d.snapshot())
	}
	return l, nil
}

func (t *procTable) killAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.procs {
		d.proc.kill(false)
	}
}

func (a *Agent) signalProc(r guest.ProcSignal) error {
	d, err := a.procs.find(r.Proc)
	if err != nil {
		return err
	}
	sig, err := signalByName(r.Signal)
	if err != nil {
		return err
	}
	if a.reaper.signal(d.proc.child, sig) != nil {
		return api.Errorf(api.Conflict, "signal background process %q: it has ended", r.Proc)
	}
	return nil
}

func (a *Agent) forget(r guest.ProcRef) error {
	d, err := a.procs.find(r.Proc)
	if err != nil {
		return err
	}
	if d.snapshot().Running {
		return api.Errorf(api.Conflict, "forget background process %q: it runs", r.Proc)
	}
	a.procs.mu.Lock()
	defer a.procs.mu.Unlock()
	a.procs.procs = slices.DeleteFunc(a.procs.procs, func(o *detached) bool { return o == d })
	return nil
}

// attach serves OpAttach.
func (a *Agent) attach(s stream, req []byte) error {
	var r guest.ProcRef
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	d, err := a.procs.find(r.Proc)
	if err != nil {
		return err
	}
	if r.InputOnly && (d.proc.f.in == nil || !d.snapshot().Running) {
		return api.Errorf(api.Conflict, "send input to background process %q: it takes none", r.Proc)
	}
	if err := s.reply(&guest.Started{Proc: r.Proc, PID: d.info.PID}); err != nil {
		return err
	}
	// The host's end is none of the process's input: others may attach.
	fed := make(chan error, 1)
	a.work.Go(func() { fed <- d.proc.feed(s) })
	if r.InputOnly {
		return awaitFed(s, fed)
	}
	var gone atomic.Bool
	a.work.Go(func() {
		select {
		case err := <-fed:
			if api.ClassOf(err) != api.Invalid { // else what came makes no sense
				s.AwaitEnd()
			}
		case <-s.over():
		}
		gone.Store(true)
		d.log.wake(false)
	})
	pos := int64(0)
	if r.NoLog {
		pos = d.log.end()
	}
	if err := d.copyLog(s, pos, func() bool { return r.NoFollow || gone.Load() }); err != nil {
		return err
	}
	info := d.snapshot()
	if info.Running {
		return nil
	}
	return s.queue(guest.KindExit, wire.Marshal(&info.Exit))
}

// awaitFed waits until the process was given all, or the host is gone.
func awaitFed(s stream, fed <-chan error) error {
	s.Flush()
	select {
	case err := <-fed:
		if err == io.EOF {
			err = nil
		}
		return err
	case <-s.over():
		return nil
	}
}

// copyLog sends the log from pos on until stop or the process's end.
func (d *detached) copyLog(s stream, pos int64, stop func() bool) error {
	buf := make([]byte, pieceSize)
	for {
		k, at, n := d.log.read(pos, buf)
		if n == 0 {
			s.Flush()
			if !d.log.wait(pos, stop) {
				return nil
			}
			continue
		}
		if err := s.queue(k, buf[:n]); err != nil {
			return err
		}
		pos = at + int64(n)
	}
}

// limitSink drops output beyond a limit.
type limitSink struct {
	sink
	left      [2]int64 // of stdout and stderr
	truncated bool
}

func (l *limitSink) output(k guest.Kind, p []byte) {
	left := &l.left[k-guest.KindStdout]
	if int64(len(p)) > *left {
		p, l.truncated = p[:*left], true
	}
	*left -= int64(len(p))
	if len(p) > 0 {
		l.sink.output(k, p)
	}
}
