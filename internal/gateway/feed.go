package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/plain"
)

// feed is an answer that consists of events of a command, as server-sent events where
// the client accepts them, else as lines of JSON. A client that does not read holds
// the sender up, and so the command.
type feed struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	sse   bool

	mu    sync.Mutex
	buf   bytes.Buffer
	began bool

	stop  func() bool   // of letting go of a write that waits
	ended chan struct{} // closed when there is no more to send
	beats sync.WaitGroup
}

// lastTime bounds what is still written to a client when the server is to end.
const lastTime = time.Second

func newFeed(w http.ResponseWriter, r *http.Request) *feed {
	f := &feed{w: w, flush: http.NewResponseController(w), sse: accepts(r, typeSSE), ended: make(chan struct{})}
	f.stop = context.AfterFunc(r.Context(), func() { f.flush.SetWriteDeadline(time.Now().Add(lastTime)) })
	return f
}

// end ends what newFeed and send have begun.
func (f *feed) end() {
	f.stop()
	close(f.ended)
	f.beats.Wait()
}

func (f *feed) send(e api.ExecEvent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begin()
	f.buf.Reset()
	if f.sse {
		f.buf.WriteString("event: " + string(e.Type) + "\ndata: ")
	}
	enc := json.NewEncoder(&f.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return err
	}
	if f.sse {
		f.buf.WriteByte('\n')
	}
	return f.write(f.buf.Bytes())
}

// begin writes the head. Called with mu held.
func (f *feed) begin() {
	if f.began {
		return
	}
	f.began = true
	ct := typeNDJSON
	if f.sse {
		ct = typeSSE
	}
	h := f.w.Header()
	h.Set("Content-Type", ct)
	h.Set("Cache-Control", "no-store")
	f.w.WriteHeader(http.StatusOK)
	f.beats.Go(f.beat)
}

// beat keeps a quiet answer alive, and has its client's end noticed.
func (f *feed) beat() {
	blank := []byte("\n")
	if f.sse {
		blank = []byte(":\n\n")
	}
	tick := time.NewTicker(eventBeat)
	defer tick.Stop()
	for {
		select {
		case <-f.ended:
			return
		case <-tick.C:
		}
		if f.mu.TryLock() { // else something is being written
			f.write(blank)
			f.mu.Unlock()
		}
	}
}

// write writes at once. Called with mu held.
func (f *feed) write(p []byte) error {
	if _, err := f.w.Write(p); err != nil {
		return err
	}
	return f.flush.Flush()
}

// failed sends the last event of a command that is lost. A client that is gone is not told.
func (f *feed) failed(out *outputs, last api.ExecEvent, err error) error {
	out.flush()
	last.Type, last.Error = api.ExecFailed, refuse(err).err
	f.send(last)
	return nil
}

// outputs are the writers of a command's output.
type outputs struct{ stdout, stderr *eventWriter }

func (f *feed) outputs(encoding string) *outputs {
	return &outputs{
		&eventWriter{f: f, typ: api.ExecStdout, encoding: encoding},
		&eventWriter{f: f, typ: api.ExecStderr, encoding: encoding},
	}
}

func (o *outputs) flush() {
	o.stdout.flush()
	o.stderr.flush()
}

// eventWriter sends what is written to it as events of output. As text it keeps the
// beginning of a character until the rest comes.
type eventWriter struct {
	f        *feed
	typ      api.ExecEventType
	encoding string
	held     []byte // fewer than utf8.UTFMax
}

func (w *eventWriter) Write(p []byte) (int, error) {
	if w.encoding == api.EncodingBase64 {
		return len(p), w.f.send(api.ExecEvent{Type: w.typ, Data: base64.StdEncoding.EncodeToString(p)})
	}
	b := p
	if len(w.held) > 0 {
		b = append(w.held, p...)
	}
	n := plain.Whole(b)
	s := plain.Of(b[:n])
	w.held = append([]byte(nil), b[n:]...)
	if s == "" {
		return len(p), nil
	}
	return len(p), w.f.send(api.ExecEvent{Type: w.typ, Data: s})
}

// flush sends what was kept of a character that never became whole.
func (w *eventWriter) flush() {
	if len(w.held) > 0 {
		w.f.send(api.ExecEvent{Type: w.typ, Data: plain.Of(w.held)})
		w.held = nil
	}
}
