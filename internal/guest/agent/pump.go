package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/mux"
	"github.com/smolvm/smolvm/internal/guest/wire"
	"golang.org/x/sys/unix"
)

const (
	// fuseBuffer holds the longest request: a write of 256 KiB and its head.
	fuseBuffer = 256<<10 + 4096
	fuseHeader = 40
	// saveTime bounds the wait for requests under way when the guest is saved, and
	// for the host's answer then.
	saveTime = 2 * time.Second
)

// The requests that the kernel wants no answer to.
const (
	fuseForget      = 2
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42
)

// pump carries a folder's FUSE messages between kernel and host. It knows of them
// which want an answer, and nothing else.
type pump struct {
	f    *folder
	send sync.Mutex // one message at a time: long ones go in parts

	mu      sync.Mutex
	changed sync.Cond
	s       *stream
	ended   bool // of the stream
	dead    bool // the folder was unmounted
	held    bool // no request is taken from the kernel
	pending map[uint64]bool
	notices []func() // what the host tells, for the kernel
	saved   chan struct{}
	readers sync.WaitGroup
}

// keptState is what the host left in the guest.
type keptState struct {
	mu   sync.Mutex
	kept [][]byte // as events
}

func (k *keptState) parts() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept
}

// maxState bounds what the host may leave, in bytes.
const maxState = 64 << 20

func (k *keptState) add(event []byte) {
	var p guest.FolderPart
	if wire.Unmarshal(event[1:], &p) != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.Fresh {
		k.kept = nil
	}
	total := len(event)
	for _, e := range k.kept {
		total += len(e)
	}
	if total <= maxState {
		k.kept = append(k.kept, append([]byte(nil), event...))
	}
}

func packEvent(e guest.FolderEvent, m wire.Message) []byte {
	return append([]byte{byte(e)}, wire.Marshal(m)...)
}

// alive reports whether the folder is still mounted.
func (p *pump) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.dead
}

// start carries messages until the stream ends, and then closes over.
func (p *pump) start(s stream, f *folder) (over <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.f, p.s, p.ended, p.held = f, &s, false, false
	p.changed.L = &p.mu
	if p.pending == nil {
		p.pending = map[uint64]bool{}
	}
	p.notices = nil
	f.fuse.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	p.readers.Go(p.fromKernel)
	p.readers.Go(p.notify)
	p.readers.Go(func() {
		defer close(done)
		p.fromHost(s)
	})
	return done
}

// stop ends a stream's work. Who still waits for an answer of its host gets an error:
// what was asked may have been done or not.
func (p *pump) stop() {
	p.mu.Lock()
	s := p.s
	p.end()
	p.mu.Unlock()
	s.Close()
	p.readers.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for unique := range p.pending {
		var b [16]byte
		binary.LittleEndian.PutUint32(b[:], uint32(len(b)))
		binary.LittleEndian.PutUint32(b[4:], ^uint32(unix.EIO)+1)
		binary.LittleEndian.PutUint64(b[8:], unique)
		p.write(b[:])
	}
	clear(p.pending)
	p.s = nil
}

// end marks the stream as over. Called with mu held.
func (p *pump) end() {
	p.ended = true
	p.changed.Broadcast()
	p.f.fuse.SetReadDeadline(time.Now())
}

// fromKernel takes requests from the kernel.
func (p *pump) fromKernel() {
	buf := make([]byte, fuseBuffer)
	for p.mayRead() {
		n, err := p.f.fuse.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR):
			continue // told to stop, or the request was withdrawn
		case err != nil:
			p.mu.Lock()
			p.dead = true
			s := p.s
			p.end()
			p.mu.Unlock()
			s.Close()
			return
		}
		if n >= fuseHeader {
			p.request(buf[:n])
		}
	}
}

// mayRead waits while requests are held, and reports whether the stream goes on.
func (p *pump) mayRead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held && !p.ended {
		p.changed.Wait()
	}
	return !p.ended
}

func (p *pump) request(m []byte) {
	switch binary.LittleEndian.Uint32(m[4:]) {
	case fuseForget, fuseBatchForget, fuseInterrupt, fuseDestroy:
	default:
		p.mu.Lock()
		p.pending[binary.LittleEndian.Uint64(m[8:])] = true
		p.mu.Unlock()
	}
	p.say(guest.KindData, m)
}

// say sends a message to the host; that its stream is over shows elsewhere.
func (p *pump) say(k guest.Kind, m []byte) error {
	p.mu.Lock()
	s := p.s
	p.mu.Unlock()
	if s == nil {
		return mux.ErrClosed
	}
	p.send.Lock()
	defer p.send.Unlock()
	err := s.queue(k, m)
	s.Flush()
	return err
}

func (p *pump) reply(m wire.Message) error { return p.say(guest.KindReply, wire.Marshal(m)) }

// fromHost takes the host's messages until there are no more.
func (p *pump) fromHost(s stream) {
	for {
		m, err := s.recvWhole()
		if err != nil {
			break
		}
		switch m.Kind {
		case guest.KindData:
			p.answer(m.Payload)
		case guest.KindEvent:
			if len(m.Payload) > 0 {
				p.event(m.Payload)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

// answer gives an answer to the kernel. A notice takes its own way: it may wait for
// a program that waits for an answer.
func (p *pump) answer(m []byte) {
	if len(m) < 16 {
		return
	}
	unique := binary.LittleEndian.Uint64(m[8:])
	if unique == 0 {
		m = append([]byte(nil), m...)
		p.later(func() { p.write(m) })
		return
	}
	p.write(m) // an error says that nobody waits for it any more
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, unique)
	if len(p.pending) == 0 {
		p.changed.Broadcast()
	}
}

// write writes to the kernel beside other writes: File.Write would have an answer wait
// for a notice that waits for the answer.
func (p *pump) write(m []byte) {
	if c, err := p.f.fuse.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.Write(int(fd), m) })
	}
}

// later has what may wait for a program done in its turn.
func (p *pump) later(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notices = append(p.notices, do)
	p.changed.Broadcast()
}

// notify does what is to be done later until the stream ends.
func (p *pump) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.ended {
		if len(p.notices) == 0 {
			p.changed.Wait()
			continue
		}
		list := p.notices
		p.notices = nil
		p.mu.Unlock()
		for _, do := range list {
			do()
		}
		p.mu.Lock()
	}
}

func (p *pump) event(e []byte) {
	switch guest.FolderEvent(e[0]) {
	case guest.FolderState:
		p.f.state.add(e)
	case guest.FolderShrink:
		p.later(p.f.shrink)
	case guest.FolderFresh:
		p.later(p.f.shrinkLayer)
	case guest.FolderAhead:
		var r guest.FolderPath
		if wire.Unmarshal(e[1:], &r) == nil {
			p.f.ahead(r.Path)
		}
	case guest.FolderSaved:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.saved != nil {
			close(p.saved)
			p.saved = nil
		}
	}
}

// save stops taking requests until the guest's processes run again, waits for those
// under way and has the host leave its state.
func (p *pump) save() {
	p.mu.Lock()
	if p.s == nil || p.ended || p.held {
		p.mu.Unlock()
		return
	}
	p.held = true
	p.f.fuse.SetReadDeadline(time.Now())
	saved := make(chan struct{})
	p.saved = saved
	late := time.AfterFunc(saveTime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
	defer late.Stop()
	for start := time.Now(); len(p.pending) > 0 && !p.ended && time.Since(start) < saveTime; {
		p.changed.Wait()
	}
	p.mu.Unlock()
	go p.release()
	p.say(guest.KindEvent, packEvent(guest.FolderSave, &guest.Empty{}))
	select {
	case <-saved:
	case <-time.After(saveTime):
	}
}

// release takes requests again when the guest's processes run.
func (p *pump) release() {
	p.f.a.freezer.awaitThaw()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.f.fuse.SetReadDeadline(time.Time{})
	}
	p.held = false
	p.changed.Broadcast()
}
