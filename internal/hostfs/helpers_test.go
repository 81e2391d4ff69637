package hostfs

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// kernel plays the guest: its kernel, and the agent that carries what it says.
type kernel struct {
	t  testing.TB
	st *guest.Conn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan []byte
	notices chan []byte
	events  chan []byte
	over    chan struct{}
}

// answer is what came back for a request.
type answer struct {
	err  unix.Errno
	body []byte
}

const testUser = 1234

// share serves dir and returns its guest.
func share(t testing.TB, c Config) (*Server, *kernel) {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); s.Close() })
	return s, connect(t, s, guest.FolderBegun{UID: testUser, GID: testUser})
}

func connect(t testing.TB, s *Server, b guest.FolderBegun, parts ...[]byte) *kernel {
	t.Helper()
	ours, theirs := net.Pipe()
	k := &kernel{
		t: t, st: guest.NewConn(theirs), waiting: map[uint64]chan []byte{},
		notices: make(chan []byte, 1000), events: make(chan []byte, 1000), over: make(chan struct{}),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(guest.NewConn(ours), nil)
	}()
	t.Cleanup(func() { k.st.Close(); <-served; <-k.over })
	b.Parts = len(parts)
	k.event(guest.FolderBegin, &b)
	for _, p := range parts {
		k.st.Send(guest.KindEvent, p)
	}
	go k.receive()
	return k
}

func (k *kernel) event(e guest.FolderEvent, m wire.Message) {
	k.st.Send(guest.KindEvent, append([]byte{byte(e)}, wire.Marshal(m)...))
}

func (k *kernel) receive() {
	defer close(k.over)
	for {
		m, err := guest.RecvWhole(k.st)
		if err != nil {
			return
		}
		p := append([]byte(nil), m.Payload...)
		if m.Kind == guest.KindEvent {
			k.events <- p
			continue
		}
		unique := binary.LittleEndian.Uint64(p[8:])
		if unique == 0 {
			k.notices <- p
			continue
		}
		k.mu.Lock()
		c := k.waiting[unique]
		delete(k.waiting, unique)
		k.mu.Unlock()
		if c != nil {
			c <- p
		}
	}
}

// pack makes a request.
func pack(op opcode, unique, node uint64, body []byte) []byte {
	var w writer
	w.u32(uint32(inHeaderLen + len(body)))
	w.u32(uint32(op))
	w.u64(unique)
	w.u64(node)
	w.zero(16)
	return append(w.b, body...)
}

// raw sends a request that nobody waits for.
func (k *kernel) raw(m []byte) { k.st.Send(guest.KindData, m) }

// ask sends a request and returns the answer.
func (k *kernel) ask(op opcode, node uint64, body ...any) answer {
	k.t.Helper()
	var w writer
	for _, v := range body {
		switch v := v.(type) {
		case uint64:
			w.u64(v)
		case uint32:
			w.u32(v)
		case int:
			w.u32(uint32(v))
		case string:
			w.b = append(append(w.b, v...), 0)
		case []byte:
			w.b = append(w.b, v...)
		default:
			k.t.Fatalf("%T", v)
		}
	}
	c := make(chan []byte, 1)
	k.mu.Lock()
	k.next += 2
	unique := k.next
	k.waiting[unique] = c
	k.mu.Unlock()
	k.raw(pack(op, unique, node, w.b))
	select {
	case m := <-c:
		return answer{unix.Errno(-int32(binary.LittleEndian.Uint32(m[4:]))), m[outHeaderLen:]}
	case <-k.over:
		return answer{err: unix.ENOTCONN}
	case <-time.After(10 * time.Second):
		k.t.Errorf("request %d is not answered", op)
		return answer{err: unix.ETIMEDOUT}
	}
}

// node is the number in an entry; 0 where there is none.
func (a answer) node() uint64 {
	if a.err != 0 || len(a.body) < entryLen {
		return 0
	}
	return binary.LittleEndian.Uint64(a.body)
}

func (a answer) mode() uint32 { return binary.LittleEndian.Uint32(a.body[40+60:]) }
func (a answer) owner() (uint32, uint32) {
	return binary.LittleEndian.Uint32(a.body[40+68:]), binary.LittleEndian.Uint32(a.body[40+72:])
}

// walk looks a path up, name by name.
func (k *kernel) walk(names ...string) answer {
	k.t.Helper()
	a := answer{body: make([]byte, entryLen)}
	node := uint64(rootID)
	for _, n := range names {
		if a = k.ask(opLookup, node, n); a.err != 0 {
			return a
		}
		if node = a.node(); node == 0 {
			return answer{err: unix.ENOENT}
		}
	}
	return a
}

// readAll reads a file by its number.
func (k *kernel) readAll(node uint64) (string, unix.Errno) {
	a := k.ask(opRead, node, uint64(0), uint64(0), maxData, 0, uint64(0), 0, 0)
	return string(a.body), a.err
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// names lists a directory by many small answers.
func (k *kernel) names(node uint64, op opcode) []string {
	var out []string
	offset := uint64(0)
	for {
		a := k.ask(op, node, uint64(0), offset, 1024, 0, uint64(0), 0, 0)
		if a.err != 0 {
			k.t.Errorf("list: %v", a.err)
		}
		b := a.body
		if len(b) == 0 {
			return out
		}
		for len(b) > 0 {
			if op == opReaddirplus {
				b = b[entryLen:]
			}
			n := int(binary.LittleEndian.Uint32(b[16:]))
			offset = binary.LittleEndian.Uint64(b[8:])
			out = append(out, string(b[direntLen:direntLen+n]))
			b = b[(direntLen+n+7)&^7:]
		}
	}
}
