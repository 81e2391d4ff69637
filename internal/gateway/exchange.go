package gateway

import (
	"context"
	"crypto/rand"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
)

// exchange is a request under way.
type exchange struct {
	id      string
	w       http.ResponseWriter // as the server gave it
	host    string              // that was asked for
	caller  caller
	pattern string // of the route; empty: there is none
	status  int    // zero: nothing was answered yet
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	x *exchange
}

// WriteHeader writes the answer's head.
func (w *recorder) WriteHeader(status int) {
	if w.x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.x.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.x.status == 0 {
		w.x.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Flush sends what was written.
func (w *recorder) Flush() { http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

const headerRequestID = "X-Request-Id"

var requestIDRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`) })

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.under.Add(1)
	defer s.under.Done()
	s.metrics.under.Inc()
	defer s.metrics.under.Dec()
	start := time.Now()
	x := &exchange{id: r.Header.Get(headerRequestID), w: w, host: r.Host}
	if !requestIDRE().MatchString(x.id) {
		x.id = strings.ToLower(rand.Text())
	}
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	w.Header().Set(headerRequestID, x.id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	defer func() { s.finish(w, r, x, start, recover()) }()
	s.dispatch(&recorder{w, x}, r, x)
}

// finish ends a request: it is counted and logged, and a fault of its handler answered.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, x *exchange, start time.Time, fault any) {
	if fault != nil && fault != http.ErrAbortHandler {
		s.log.Error("panic", "request", x.id, "fault", fault, "stack", string(debug.Stack()))
		s.fail(&recorder{w, x}, r, api.Errorf(api.Internal, "%.20s %.200q: a fault of smolvm", r.Method, r.URL.Path))
	}
	took := time.Since(start)
	s.metrics.count(x, took)
	s.log.Info("request", "request", x.id, "method", cut(r.Method, 20), "path", cut(r.URL.Path, 200), "status", x.status,
		"ms", float64(took.Microseconds())/1000, "caller", x.caller.name)
	if fault == http.ErrAbortHandler {
		panic(fault)
	}
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, x *exchange) {
	if err := s.checkOrigin(r); err != nil {
		s.fail(w, r, err)
		return
	}
	if t, ok := previewOf(r.Host); ok {
		x.pattern = "preview"
		s.preview(w, r, t)
		return
	}
	h, pattern := s.mux.Handler(r)
	if pattern == "" {
		s.noRoute(w, r, h)
		return
	}
	x.pattern = pattern
	s.mux.ServeHTTP(w, r) // not h: that has no path values
}

// probe takes what the standard library would answer where no route fits.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(status int)      { p.status = status }

// noRoute answers a request that no route fits.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request, h http.Handler) {
	p := &probe{header: http.Header{}}
	h.ServeHTTP(p, r)
	if p.status != http.StatusMethodNotAllowed {
		s.fail(w, r, api.Errorf(api.NotFound, "%.20s %.200q: there is no such route", r.Method, r.URL.Path).
			WithCode(codeNoRoute).WithRecovery("See /docs for the routes."))
		return
	}
	w.Header().Set("Allow", p.header.Get("Allow"))
	s.fail(w, r, api.Errorf(api.Invalid, "%.20s is not a method of %.200q", r.Method, r.URL.Path).
		WithCode(codeMethod).WithRecovery("Use %s.", p.header.Get("Allow")))
}
