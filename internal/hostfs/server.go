package hostfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Config says what to serve.
type Config struct {
	Folder   string   // absolute path of a folder of this host
	Writable bool     // else every change is refused
	Hidden   []string // folders that no guest may see, wherever they appear
}

const (
	// maxData bounds the bytes of one read or write. A quarter of a MiB is what a
	// stream carries without a stop, and a few milliseconds of its time.
	maxData = 256 << 10
	// maxRequest bounds a request: a write and what stands before its bytes.
	maxRequest = maxData + 4096
	// maxActive bounds the requests that are served at once.
	maxActive = 32
	// shortLife is how long a guest may take what it knows of a file for true where
	// nothing tells of changes on the host; longLife where it would be told.
	shortLife = time.Second
	longLife  = time.Hour
)

// Server serves one folder to one guest.
type Server struct {
	c     Config
	root  *root
	nodes *nodes
	watch *watcher // nil: nothing tells of changes
	slots chan struct{}

	one  sync.Mutex // held while a stream is served
	send sync.Mutex // one message at a time: long ones go in parts
	mu   sync.Mutex // guards what follows
	st   guest.Stream
	uid  uint32
	gid  uint32
	done bool

	closing chan struct{}
	work    sync.WaitGroup // requests under way
	serving sync.WaitGroup
}

// New opens a folder. Class NotFound or Invalid where there is none, Unavailable
// where the host's kernel is older than 5.6.
func New(c Config) (*Server, error) {
	fd, err := unix.Open(c.Folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, folderError(c.Folder, err)
	}
	s := &Server{c: c, root: &root{fd: fd}, nodes: newNodes(), slots: make(chan struct{}, maxActive), closing: make(chan struct{})}
	if probe, err := s.root.open("."); err != 0 {
		unix.Close(fd)
		return nil, api.Errorf(api.Unavailable, "share folder %q: openat2: %w", c.Folder, err)
	} else {
		unix.Close(probe)
	}
	for _, h := range c.Hidden {
		s.hide(h)
	}
	id, _, e := stat(fd)
	if e == 0 && s.root.hides(id) {
		unix.Close(fd)
		return nil, api.Errorf(api.Denied, "share folder %q: it is smolvm's own state", c.Folder)
	}
	if s.watch = newWatcher(s); s.watch != nil {
		s.nodes.unwatch = s.watch.remove
	}
	return s, nil
}

func folderError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return api.Errorf(api.NotFound, "share folder %q: it is not there", path)
	case errors.Is(err, unix.ENOTDIR):
		return api.Errorf(api.Invalid, "share folder %q: it is no folder", path)
	}
	return api.Errorf(api.Denied, "share folder %q: %w", path, err)
}

// hide has guests not see a folder, nor put another in its place: the folders above it
// keep their names.
func (s *Server) hide(path string) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return // what is not there cannot be seen
	}
	if id, err := identityOf(path); err == nil {
		s.root.hidden = append(s.root.hidden, id)
	}
	for path != filepath.Dir(path) {
		path = filepath.Dir(path)
		if id, err := identityOf(path); err == nil {
			s.root.above = append(s.root.above, id)
		}
	}
}

func identityOf(path string) (identity, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return identity{}, err
	}
	defer unix.Close(fd)
	id, _, e := stat(fd)
	if e != 0 {
		return id, e
	}
	return id, nil
}

// Serve serves the guest at the other end of a stream until that ends, and returns
// nil where the guest has ended it in good order. Ready, which may be nil, is called
// when the guest has mounted the folder, or with the reason why it could not. Another
// stream may follow. Serve closes the stream.
func (s *Server) Serve(st guest.Stream, ready func(error)) error {
	s.one.Lock()
	defer s.one.Unlock()
	if !s.attach(st) {
		st.Close()
		return api.Errorf(api.Unavailable, "share folder %q: its server was closed", s.c.Folder)
	}
	defer s.serving.Done()
	err := s.serve(st, ready)
	st.Close()
	s.work.Wait()
	s.mu.Lock()
	s.st = nil
	s.mu.Unlock()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *Server) attach(st guest.Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false
	}
	s.serving.Add(1)
	s.st = st
	return true
}

func (s *Server) serve(st guest.Stream, ready func(error)) error {
	tell := func(err error) {
		if ready != nil {
			ready(err)
			ready = nil
		}
	}
	in := inbox{st: st}
	resumed, err := s.begin(&in)
	if err != nil {
		tell(err)
		return err
	}
	for {
		m, err := in.next()
		if err != nil {
			tell(err)
			return err
		}
		switch m.Kind {
		case guest.KindReply:
			tell(nil)
			if resumed {
				s.work.Go(s.resumed)
			}
		case guest.KindData:
			if err := s.request(m.Payload); err != nil {
				return err
			}
		case guest.KindEvent:
			if len(m.Payload) > 0 && guest.FolderEvent(m.Payload[0]) == guest.FolderSave {
				s.save()
			}
		}
	}
}

// begin takes the guest's greeting and what it kept.
func (s *Server) begin(in *inbox) (resumed bool, err error) {
	var b guest.FolderBegun
	if err := in.event(guest.FolderBegin, &b); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.uid, s.gid = uint32(b.UID), uint32(b.GID)
	s.mu.Unlock()
	if b.Parts < 0 || b.Parts > maxNodes/partNodes+1 {
		return false, errProtocol
	}
	var parts []guest.FolderPart
	for range b.Parts {
		var p guest.FolderPart
		if err := in.event(guest.FolderState, &p); err != nil {
			return false, err
		}
		parts = append(parts, p)
	}
	s.restore(b.Resumed, parts)
	return b.Resumed, nil
}

var errProtocol = errors.New("the guest does not keep to the protocol of shared folders")

// request serves a request, which is valid until the return, in a goroutine of its
// own where it may take a while.
func (s *Server) request(m []byte) error {
	h, body, ok := parseHeader(m)
	if !ok {
		return errProtocol
	}
	if h.op.silent() {
		s.forgets(h, body)
		return nil
	}
	body = append([]byte(nil), body...)
	s.slots <- struct{}{}
	s.work.Go(func() {
		defer func() { <-s.slots }()
		r := request{s: s, h: h, in: reader{b: body}}
		s.reply(r.serve())
		r.recall()
	})
	return nil
}

// reply sends an answer or a notice. Where there is nobody to take it, it is lost.
func (s *Server) reply(m []byte) { s.post(guest.KindData, m) }

func (s *Server) post(k guest.Kind, m []byte) {
	s.mu.Lock()
	st := s.st
	s.mu.Unlock()
	if st == nil {
		return
	}
	s.send.Lock()
	defer s.send.Unlock()
	st.Send(k, m) // its end shows at the receiver
}

// event sends what is no FUSE message.
func (s *Server) event(e guest.FolderEvent, m wire.Message) {
	s.post(guest.KindEvent, append([]byte{byte(e)}, wire.Marshal(m)...))
}

// forgets takes notice of what the kernel wants no answer to.
func (s *Server) forgets(h header, body []byte) {
	r := reader{b: body}
	switch h.op {
	case opForget:
		s.nodes.forget(h.node, r.u64())
	case opBatchForget:
		n := r.u32()
		r.skip(4)
		for range n {
			id, lookups := r.u64(), r.u64()
			if r.bad {
				return
			}
			s.nodes.forget(id, lookups)
		}
	}
}

// Close ends the stream that is served and closes the folder. It may be called twice.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.done
	if first {
		close(s.closing)
	}
	s.done = true
	st := s.st
	s.mu.Unlock()
	if st != nil {
		st.Close()
	}
	if !first {
		return nil
	}
	s.serving.Wait()
	s.watch.close()
	s.nodes.close()
	return os.NewSyscallError("close", unix.Close(s.root.fd))
}

// inbox receives whole messages of bounded length.
type inbox struct {
	st   guest.Stream
	long []byte
}

// next returns the next message, which is valid until the call after it.
func (in *inbox) next() (guest.Message, error) {
	m, err := in.st.Recv()
	if err != nil {
		return m, err
	}
	if m.Kind == guest.KindError {
		return m, guest.FailureOf(m.Payload)
	}
	if m.Kind != guest.KindMore {
		return m, nil
	}
	in.long = in.long[:0]
	for {
		if len(in.long)+len(m.Payload) > maxRequest {
			return m, errProtocol
		}
		in.long = append(in.long, m.Payload...)
		if m.Kind != guest.KindMore {
			return guest.Message{Kind: m.Kind, Payload: in.long}, nil
		}
		if m, err = in.st.Recv(); err != nil {
			return m, err
		}
	}
}

// event receives an event of one kind.
func (in *inbox) event(want guest.FolderEvent, into wire.Message) error {
	m, err := in.next()
	if err != nil {
		return err
	}
	if m.Kind != guest.KindEvent || len(m.Payload) == 0 || guest.FolderEvent(m.Payload[0]) != want {
		return errProtocol
	}
	if err := wire.Unmarshal(m.Payload[1:], into); err != nil {
		return errProtocol
	}
	return nil
}
