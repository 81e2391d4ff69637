package secret

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
)

// body puts values into the body, or has it watched.
func (p *pass) body() error {
	r := p.r
	if r.Body == nil || r.Length == 0 || p.compressed() {
		return nil
	}
	switch {
	case !p.wanted():
		r.Body = &watcher{src: r.Body, pass: p}
	case r.Length < 0:
		r.Body = newStreamer(r.Body, p, p.bodyEncoding())
	case r.Length > MaxHeld:
		r.Body = &watcher{src: r.Body, pass: p, why: "the body is too long to be held"}
	default:
		return p.heldBody()
	}
	return nil
}

// compressed reports whether nobody can see what is in the body.
func (p *pass) compressed() bool {
	for _, v := range p.r.Header.Values("Content-Encoding") {
		if v = strings.TrimSpace(v); v != "" && !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// wanted reports whether any secret may be put into this request.
func (p *pass) wanted() bool {
	for _, h := range p.list {
		if p.forbids(h) == "" {
			return true
		}
	}
	return false
}

// bodyEncoding is how values are written in the body.
func (p *pass) bodyEncoding() encoding {
	kind, _, _ := mime.ParseMediaType(p.r.Header.Get("Content-Type"))
	switch {
	case kind == "application/x-www-form-urlencoded":
		return url.QueryEscape
	case kind == "application/json", strings.HasSuffix(kind, "+json"):
		return inJSON
	}
	return asIs
}

// inJSON writes a value as it stands within a JSON string.
func inJSON(value string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(value) // a string cannot fail
	text := strings.TrimSuffix(b.String(), "\n")
	return text[1 : len(text)-1]
}

// heldBody reads a body whole, so that the server is told its new length.
func (p *pass) heldBody() error {
	r := p.r
	if !p.budget.take(r.Length) {
		return api.Errorf(api.Exhausted, "read the body of a request to %s: too many of this sandbox are being held", r.Host)
	}
	free := sync.OnceFunc(func() { p.budget.give(r.Length) })
	whole, err := io.ReadAll(io.LimitReader(r.Body, r.Length+1))
	if err == nil && int64(len(whole)) != r.Length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		free()
		return api.Errorf(api.Unavailable, "read the body of a request to %s: %w", r.Host, err)
	}
	text, err := p.replace("body", string(whole), p.bodyEncoding())
	if err != nil {
		free()
		return err
	}
	r.Length = int64(len(text))
	r.Body = heldText{strings.NewReader(text), r.Body, free}
	return nil
}

// heldText is a body that is held until it is closed.
type heldText struct {
	io.Reader
	src  io.Closer
	free func()
}

func (h heldText) Close() error {
	h.free()
	return h.src.Close()
}

// budget bounds what the bodies of a sandbox hold together.
type budget struct{ used atomic.Int64 }

// maxHeldAll is that bound, in bytes.
const maxHeldAll = 64 << 20

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > maxHeldAll {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// watcher passes a body on as it is, and reports placeholders in it.
type watcher struct {
	src  io.ReadCloser
	pass *pass
	why  string // values are not put there, where a secret itself could be
	tail []byte // the end of what has passed, that may be the beginning of one
}

func (w *watcher) Read(b []byte) (int, error) {
	n, err := w.src.Read(b)
	if n > 0 {
		w.look(b[:n])
	}
	return n, err
}

func (w *watcher) look(b []byte) {
	const overlap = placeholderLen - 1
	w.tail = append(w.tail, b[:min(len(b), overlap)]...) // what spans the two
	for _, part := range [][]byte{w.tail, b} {
		if bytes.Contains(part, []byte(Prefix)) {
			w.pass.scan("body", string(part), w.why)
		}
	}
	if len(b) > overlap {
		w.tail = append(w.tail[:0], b[len(b)-overlap:]...)
	} else if len(w.tail) > overlap {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-overlap:]...)
	}
}

func (w *watcher) Close() error { return w.src.Close() }

// splitTime is how long the last bytes of what has come are kept back for being,
// perhaps, the beginning of a placeholder: who talks both ways may wait for an answer
// to them.
const splitTime = 100 * time.Millisecond

// streamer puts values into a body of unknown length while it passes.
type streamer struct {
	src  io.ReadCloser
	pass *pass
	enc  encoding

	more   chan chunk    // what was read
	closed chan struct{} // nothing is read any more
	close  func()

	kept []byte // not looked at to its end
	out  []byte // to be read
	err  error  // after out
}

type chunk struct {
	b   []byte
	err error
}

func newStreamer(src io.ReadCloser, p *pass, enc encoding) *streamer {
	s := &streamer{src: src, pass: p, enc: enc, more: make(chan chunk), closed: make(chan struct{})}
	s.close = sync.OnceFunc(func() {
		close(s.closed)
		// Of HTTP/1 this waits for the read under way, which ends with the guest's next
		// bytes or its connection.
		go s.src.Close()
	})
	go s.pump()
	return s
}

// pump reads, since a read cannot be given up when it is time to pass on what was kept.
func (s *streamer) pump() {
	for {
		b := make([]byte, 16<<10)
		n, err := s.src.Read(b)
		select {
		case s.more <- chunk{b[:n], err}:
		case <-s.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *streamer) Read(b []byte) (int, error) {
	for len(s.out) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.next()
	}
	n := copy(b, s.out)
	s.out = s.out[n:]
	return n, nil
}

// next waits for the next bytes to pass on.
func (s *streamer) next() {
	var late <-chan time.Time
	// What begins as all placeholders do is one that is under way.
	if len(s.kept) > 0 && !bytes.HasPrefix(s.kept, []byte(Prefix)) {
		t := time.NewTimer(splitTime)
		defer t.Stop()
		late = t.C
	}
	select {
	case c := <-s.more:
		s.kept = append(s.kept, c.b...)
		s.err = c.err
		s.look()
	case <-late:
		s.out, s.kept = s.kept, nil
	case <-s.closed:
		s.err = io.ErrClosedPipe
	}
}

// look moves what was kept to out, but for an end that may be a placeholder's
// beginning.
func (s *streamer) look() {
	var out []byte
	rest := s.kept
	for {
		i := bytes.Index(rest, []byte(Prefix))
		if i < 0 {
			i = len(rest) - beginning(rest)
		}
		out = append(out, rest[:i]...)
		rest = rest[i:]
		if len(rest) < placeholderLen {
			break
		}
		value, put, err := s.pass.value("body", string(rest[:placeholderLen]), s.enc)
		switch {
		case err != nil:
			s.kept, s.out, s.err = nil, out, err
			return
		case put:
			out, rest = append(out, value...), rest[placeholderLen:]
		default:
			out, rest = append(out, Prefix...), rest[len(Prefix):]
		}
	}
	if s.err != nil { // nothing more comes
		out, rest = append(out, rest...), nil
	}
	s.kept, s.out = bytes.Clone(rest), out
}

// beginning returns how many bytes at the end of b Prefix may begin with.
func beginning(b []byte) int {
	for n := min(len(b), len(Prefix)-1); n > 0; n-- {
		if bytes.HasSuffix(b, []byte(Prefix[:n])) {
			return n
		}
	}
	return 0
}

// Close closes the body. It may be called twice, and while it is read.
func (s *streamer) Close() error {
	s.close()
	return nil
}
