package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm/api"
)

// Content types that are not JSON.
const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeText   = "text/plain"
	typeTar    = "application/x-tar"
	typeBytes  = "application/octet-stream"
)

// MadeLine is one line of an answer that tells of progress. The last line has what
// was made, or the error.
type MadeLine struct {
	Progress  *api.Progress `json:"progress,omitempty"`
	Sandbox   *api.Sandbox  `json:"sandbox,omitempty"`
	Sandboxes []api.Sandbox `json:"sandboxes,omitempty"`
	Template  *api.Template `json:"template,omitempty"`
	Image     *api.Image    `json:"image,omitempty"`
	Error     *Failure      `json:"error,omitempty"`
}

// making answers with what work makes: as JSON or, where the client accepts NDJSON,
// as the last of lines that tell of progress. line is MadeLine with what was made.
func making(w http.ResponseWriter, r *http.Request, status int, work func(tell func(step string, done, total int64)) (answer any, line MadeLine, err error)) error {
	if !accepts(r, typeNDJSON) {
		answer, _, err := work(func(string, int64, int64) {})
		if err != nil {
			return err
		}
		return answerJSON(w, status, answer)
	}
	l := &lines{w: w, status: status}
	_, last, err := work(func(step string, done, total int64) {
		l.write(MadeLine{Progress: &api.Progress{Step: step, Done: done, Total: total}})
	})
	l.mu.Lock()
	began := l.began
	l.mu.Unlock()
	if err != nil {
		if !began {
			return err // it still can have a status of its own
		}
		f := failure(r.Context(), refuse(err).err)
		last = MadeLine{Error: &f}
	}
	return l.write(last)
}

// madeAnswers documents what making answers.
func madeAnswers[T any](s *Server) map[string]*huma.Schema {
	return map[string]*huma.Schema{typeJSON: schemaOf[T](s), typeNDJSON: schemaOf[MadeLine](s)}
}

// lines writes values as lines of JSON, each at once. It may be used from many goroutines.
type lines struct {
	mu     sync.Mutex
	w      http.ResponseWriter
	status int // zero: 200
	began  bool
}

func (l *lines) write(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.began {
		l.began = true
		l.w.Header().Set("Content-Type", typeNDJSON)
		l.w.WriteHeader(max(l.status, http.StatusOK))
	}
	if err := json.NewEncoder(l.w).Encode(v); err != nil {
		return err
	}
	return http.NewResponseController(l.w).Flush()
}

// accepts reports whether a client asks for a content type by its name.
func accepts(r *http.Request, contentType string) bool {
	for _, value := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), contentType) {
				return true
			}
		}
	}
	return false
}

func answerJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(max(status, http.StatusOK))
	return json.NewEncoder(w).Encode(v)
}

// writing answers with bytes that write writes. Where it fails before it has written
// any, the error is the answer, else it is in the trailer, for those who say that they
// read it (TE: trailers, RFC 9110 section 10.1.4). For others the connection breaks: a
// body that ends in order would look whole.
func writing(w http.ResponseWriter, r *http.Request, contentType string, write func(io.Writer) error) error {
	h := w.Header()
	h.Set("Trailer", api.TrailerError)
	h.Set("Content-Type", contentType)
	err := write(flushing{w})
	if err != nil && exchangeOf(r.Context()).status == 0 {
		h.Del("Trailer")
		return err
	}
	if err != nil {
		if !readsTrailers(r) {
			panic(http.ErrAbortHandler)
		}
		b, _ := json.Marshal(failure(r.Context(), refuse(err).err))
		h.Set(api.TrailerError, string(b))
	}
	return nil
}

func readsTrailers(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header.Values("TE"), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(coding), "trailers") {
			return true
		}
	}
	return false
}

// flushing sends what is written at once: its reader may be waiting for it.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}
