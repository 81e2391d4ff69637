package intercept

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
)

const (
	// upstreamIdle closes connections to servers that are not used, before most
	// servers do.
	upstreamIdle = 60 * time.Second
	// continueTime is how long a body waits for a server that was asked whether it
	// wants it; most do not answer (RFC 9110 section 10.1.1 tells not to wait for ever).
	continueTime = time.Second
	// ioBuffer is one TLS record.
	ioBuffer = 16 << 10
)

// windows are what HTTP/2 holds of what nobody reads, in bytes: of a stream, and of a
// whole connection, where one stuck stream must not stop the others. The latter must
// be below 4 MiB (http.HTTP2Config).
type windows struct{ stream, conn int }

// With many flows open new ones get less, which bounds what a guest that does not
// read and servers that do not can make us hold, each side of a flow, to manyFlows *
// wide.conn and narrow.conn for each of the others.
var (
	wide   = windows{512 << 10, 2 << 20}
	narrow = windows{64 << 10, 256 << 10}
)

const manyFlows = 64

func sizeOf(flows int64) windows {
	if flows > manyFlows {
		return narrow
	}
	return wide
}

// server serves one flow.
type server struct {
	i   *Interceptor
	f   Flow
	ctx context.Context // of the flow

	size windows

	up    *http.Transport
	up1   *http.Transport // HTTP/1.1 alone, for switches
	proxy *httputil.ReverseProxy
	conns conns

	mu       sync.Mutex
	handlers int
	closing  bool
	idle     chan struct{} // closed when closing and no handler is left
	over     chan struct{} // closed when the guest's connection is
	overOnce sync.Once
}

func newServer(ctx context.Context, i *Interceptor, f Flow, size windows) *server {
	s := &server{i: i, f: f, ctx: ctx, size: size, idle: make(chan struct{}), over: make(chan struct{})}
	s.up, s.up1 = s.transport(f.TLS), s.transport(false)
	s.proxy = &httputil.ReverseProxy{
		Rewrite:        s.prepare,
		Transport:      roundTripper{s},
		ModifyResponse: s.response,
		ErrorHandler:   s.failed,
		ErrorLog:       silent,
		FlushInterval:  -1, // at once: streams must not wait for more
		BufferPool:     &buffers,
	}
	return s
}

// silent takes what net/http says of guests that break off; what counts is in
// the Exchange.
var silent = log.New(io.Discard, "", 0)

// serve serves the guest's connection until it is closed.
func (s *server) serve(ctx context.Context, guest net.Conn) {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(s.f.TLS)
	h := &http.Server{
		Handler:                      s,
		Protocols:                    &p,
		ReadHeaderTimeout:            s.i.cfg.Idle,
		IdleTimeout:                  s.i.cfg.Idle,
		MaxHeaderBytes:               s.i.cfg.Head,
		ErrorLog:                     silent,
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnState:                    s.state,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          s.i.cfg.Streams,
			MaxReceiveBufferPerStream:     s.size.stream,
			MaxReceiveBufferPerConnection: s.size.conn,
		},
	}
	_ = h.Serve(&once{conn: guest}) // its one connection goes on
	<-s.over
}

// state is told of the connection's end, but for one that was switched.
func (s *server) state(_ net.Conn, st http.ConnState) {
	if st == http.StateClosed {
		s.finished()
	}
}

func (s *server) finished() { s.overOnce.Do(func() { close(s.over) }) }

// end closes what was dialled and waits for the handlers: those of HTTP/2 may
// outlive their connection.
func (s *server) end() {
	s.conns.closeAll()
	s.mu.Lock()
	s.closing = true
	if s.handlers == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.idle
	s.up.CloseIdleConnections()
	s.up1.CloseIdleConnections()
}

func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.handlers++
	return true
}

func (s *server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handlers--; s.handlers == 0 && s.closing {
		close(s.idle)
	}
}

// dial connects to a server, for a transport.
func (s *server) dial(ctx context.Context, _, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return s.connect(ctx, name)
}

func (s *server) connect(ctx context.Context, name string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // transports dial on for the next request
	conn, err := s.f.Dial(ctx, name)
	if err != nil {
		return nil, err
	}
	d, ok := s.conns.add(conn, s.i.cfg.Conns)
	if !ok {
		conn.Close()
		return nil, api.Errorf(api.Exhausted, "connect to %q: the flow has %d connections", name, s.i.cfg.Conns)
	}
	return d, nil
}

// buffers are what bodies are copied with.
var buffers = bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte  { return *p.pool.Get().(*[]byte) }
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
