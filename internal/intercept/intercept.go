package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Config says what an Interceptor is made of. The zero value serves flows in
// clear alone.
type Config struct {
	CA    *CA              // signs what guests are shown; nil: TLS flows are an error
	Roots *x509.CertPool   // whom servers are verified by; nil: the host's authorities
	Now   func() time.Time // nil: time.Now
	Limits
}

// Limits bound what a flow can make the host hold. Zero fields have defaults.
type Limits struct {
	Head      int           // bytes of a head, each way; 64 KiB
	Streams   int           // requests at once on a connection; 100
	Conns     int           // connections to servers at once; 16
	Requests  int           // requests at once on all connections of the sandbox; 1024
	Greet     time.Duration // for TLS with the guest, which may be emulated on a busy host; 60s
	Handshake time.Duration // for TLS with a server; 15s
	Idle      time.Duration // a guest's connection without a request; 5m
}

func (l Limits) withDefaults() Limits {
	set(&l.Head, 64<<10)
	set(&l.Streams, 100)
	set(&l.Conns, 16)
	set(&l.Requests, 1024)
	set(&l.Greet, time.Minute)
	set(&l.Handshake, 15*time.Second)
	set(&l.Idle, 5*time.Minute)
	return l
}

// set gives p its default if it is zero.
func set[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// maxSessions bounds the TLS sessions with servers that are kept for the next
// flow to the same name.
const maxSessions = 256

// Interceptor serves the flows of one sandbox. Its methods may be called at once.
type Interceptor struct {
	cfg      Config
	greeting *tls.Config // towards guests; one for all, so that they can resume
	sessions tls.ClientSessionCache
	flows    atomic.Int64  // that are served
	requests chan struct{} // a place for each under way
}

// New makes an Interceptor, which has nothing to close. Class Invalid where a
// limit is negative.
func New(cfg Config) (*Interceptor, error) {
	l := cfg.Limits
	if l.Head < 0 || l.Streams < 0 || l.Conns < 0 || l.Requests < 0 || l.Greet < 0 || l.Handshake < 0 || l.Idle < 0 {
		return nil, api.Errorf(api.Invalid, "make interceptor: a limit is negative: %+v", l)
	}
	cfg.Limits = l.withDefaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	i := &Interceptor{cfg: cfg, sessions: tls.NewLRUClientSessionCache(maxSessions), requests: make(chan struct{}, cfg.Requests)}
	i.greeting = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		Time:           cfg.Now,
		GetCertificate: i.certificate,
	}
	return i, nil
}

// Serve serves one connection of the guest until it ends, or ctx does. It closes
// the connection and all that it dialled, and returns when nothing of the flow is
// left running. An error says why the guest could not be served at all: class
// Denied where the guest does not trust the sandbox's authority, which programs with
// authorities of their own do, Invalid where it is not TLS or asks for another name.
func (i *Interceptor) Serve(ctx context.Context, guest net.Conn, f Flow) error {
	defer guest.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { guest.Close() })()
	if f.TLS {
		conn, err := i.greet(ctx, guest, f.Name)
		if err != nil {
			return err
		}
		guest = conn
	}
	size := sizeOf(i.flows.Add(1))
	defer i.flows.Add(-1)
	s := newServer(ctx, i, f, size)
	s.serve(ctx, guest)
	cancel()
	s.end()
	return nil
}

// named is a guest's connection that knows what it leads to, for hellos without
// a name.
type named struct {
	net.Conn
	name string
}

func (i *Interceptor) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return i.cfg.CA.leaf(h.Conn.(named).name, i.cfg.Now())
}

// greet is the TLS handshake with the guest.
func (i *Interceptor) greet(ctx context.Context, guest net.Conn, name string) (*tls.Conn, error) {
	if i.cfg.CA == nil {
		return nil, api.Errorf(api.Internal, "open TLS to %q: the sandbox has no certificate authority", name)
	}
	ctx, cancel := context.WithTimeout(ctx, i.cfg.Greet)
	defer cancel()
	conn := tls.Server(named{guest, name}, i.greeting)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, greetError(name, err)
	}
	if sni := conn.ConnectionState().ServerName; sni != "" && !sameName(sni, name) {
		return nil, api.Errorf(api.Invalid, "open TLS to %q: the guest asked for %q", name, sni)
	}
	return conn, nil
}

func greetError(name string, err error) error {
	var op *net.OpError
	var not tls.RecordHeaderError
	switch {
	case errors.As(err, &op) && op.Op == "remote error": // an alert (crypto/tls)
		return api.Errorf(api.Denied, "open TLS to %q: the guest's program ended it: %w", name, op.Err).
			WithRecovery("It may have authorities of its own: have it trust the system's, or let the policy decide about this host without methods, paths and secrets.")
	case errors.As(err, &not):
		return api.Errorf(api.Invalid, "open TLS to %q: the guest does not speak TLS", name)
	}
	return api.Errorf(api.Unavailable, "open TLS to %q: %w", name, err)
}
