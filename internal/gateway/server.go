package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
)

// Options says what to serve. Client must be a local one.
type Options struct {
	Client  smolvm.Client
	Keys    *apikey.Store // who may come over TCP; nil: nobody
	Hosts   []string      // names that this server is known by over TCP, beside those of loopback
	Version string        // of smolvm
	Log     *slog.Logger  // nil: nothing is logged
	// IdleExit ends Serve when nobody has used the server for so long. Zero: never.
	IdleExit time.Duration

	HeaderTime time.Duration // to send a request's head; zero: 10 seconds
	BodyTime   time.Duration // to send a JSON body; zero: 30 seconds
}

// Server serves the HTTP API. It is for one call of Serve.
type Server struct {
	opts Options
	log  *slog.Logger
	mux  *http.ServeMux
	api  huma.API

	document []byte // of the routes, as OpenAPI

	conns   conns
	limits  limits
	metrics *metrics
	leases  leases
	replays replays

	previews previewKey
	tcp      atomic.Pointer[string] // address that is served over TCP; nil: none

	under   sync.WaitGroup  // requests under way, those whose connection was taken over too
	closing context.Context // ends when streams are to end
	close   context.CancelFunc
}

// Bounds of what one client may cost before it is known.
const (
	headerTime    = 10 * time.Second
	bodyTime      = 30 * time.Second
	maxHeader     = 32 << 10
	keepAliveTime = 2 * time.Minute // a connection without a request
	closeTime     = 10 * time.Second
)

// New returns a server that is ready to serve.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.HeaderTime == 0 {
		o.HeaderTime = headerTime
	}
	if o.BodyTime == 0 {
		o.BodyTime = bodyTime
	}
	s := &Server{opts: o, log: o.Log, mux: http.NewServeMux(), previews: newPreviewKey()}
	s.closing, s.close = context.WithCancel(context.Background())
	s.api = newAPI(s.mux)
	s.routes()
	var err error
	if s.document, err = describe(s.api.OpenAPI()); err != nil {
		panic(err) // it depends on nothing but the code
	}
	return s
}

// Serve answers on the listeners until ctx ends or nobody has come for
// Options.IdleExit, then closes them. Requests under way may finish for some seconds,
// streams end at once; sandboxes that are not ephemeral stay. Only a fault of a
// listener is an error.
func (s *Server) Serve(ctx context.Context, ls ...net.Listener) error {
	h := http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.opts.HeaderTime,
		IdleTimeout:       keepAliveTime,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, len(ls))
	for _, l := range ls {
		if l.Addr().Network() == "tcp" {
			addr := l.Addr().String()
			s.tcp.Store(&addr)
		}
		go func() { ended <- h.Serve(s.conns.track(l)) }()
	}
	left := len(ls)
	var err error
	select {
	case <-ctx.Done():
	case <-s.conns.idle(s.closing, s.opts.IdleExit):
	case err = <-ended:
		left--
	}
	s.shutdown(&h)
	for range left {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

func (s *Server) shutdown(h *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	s.close()
	if h.Shutdown(ctx) != nil {
		h.Close()
	}
	s.under.Wait()
}
