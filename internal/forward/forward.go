package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

const (
	// MaxFlows and MaxTalks bound the connections, and the conversations over UDP,
	// that all ports of a sandbox have under way. A guest takes 1024 streams, so
	// commands always find one.
	MaxFlows = 512
	MaxTalks = 256

	halfTime      = 5 * time.Minute
	udpIdle       = 2 * time.Minute // RFC 4787, REQ-5
	udpUnanswered = 10 * time.Second
	udpPeers      = 128
)

// Flow is a connection to a server in the guest; see guest.Flow.
type Flow interface {
	io.Writer
	Recv() ([]byte, error)
	Send(datagram []byte) error
	CloseSend() error
	Close() error
}

// Config says what a Set is made of.
type Config struct {
	// Dial connects to a server in the guest. It may wait for the guest; the
	// context's end, which is the port's, ends the flow too.
	Dial func(ctx context.Context, d guest.Dial) (Flow, error)
	// Seen is told of each connection, and of each conversation over UDP, when the
	// guest has taken or refused it; nil: nobody.
	Seen func(p api.Port, peer netip.AddrPort, err error)
}

// Set is the forwarded ports of one sandbox. Its methods may be called at once.
type Set struct {
	cfg   Config
	slots chan struct{} // one in it for each connection
	talks chan struct{} // and for each conversation over UDP

	mu     sync.Mutex
	ports  []*port
	closed bool
}

// port is one port that is forwarded.
type port struct {
	api.Port
	set   *Set
	ctx   context.Context // ends with the port
	end   context.CancelFunc
	close func() error // the socket
	work  sync.WaitGroup
}

// New makes an empty set. Close it.
func New(cfg Config) *Set {
	if cfg.Seen == nil {
		cfg.Seen = func(api.Port, netip.AddrPort, error) {}
	}
	return &Set{cfg: cfg, slots: make(chan struct{}, MaxFlows), talks: make(chan struct{}, MaxTalks)}
}

// Add binds a port and forwards it until Remove or Close. It returns the port with
// its number. Where p was Picked and its number is taken by now, another is picked.
// Class Conflict with CodePortTaken where another program has it, Denied where this
// user may not bind it, Unavailable where the host has no such address.
func (s *Set) Add(p api.Port) (api.Port, error) {
	p = p.WithDefaults()
	if err := p.Check(); err != nil {
		return p, err
	}
	p.Picked = p.Picked || p.HostPort == 0
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return p, api.Errorf(api.Unavailable, "forward port %s: the sandbox is ending", p)
	}
	f, err := s.bind(p)
	if errors.Is(err, syscall.EADDRINUSE) && p.Picked && p.HostPort != 0 {
		p.HostPort = 0
		f, err = s.bind(p)
	}
	if err != nil {
		return p, cannotBind(p, err)
	}
	s.ports = append(s.ports, f)
	return f.Port, nil
}

// bind binds a port and begins to serve it.
func (s *Set) bind(p api.Port) (*port, error) {
	f := &port{Port: p, set: s}
	f.ctx, f.end = context.WithCancel(context.Background())
	addr := net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort))
	// Not "tcp": that may take in IPv6 where 0.0.0.0 was said.
	network := p.Proto + "4"
	if netip.MustParseAddr(p.HostIP).Is6() {
		network = p.Proto + "6"
	}
	var err error
	if p.Proto == api.ProtoUDP {
		err = f.bindUDP(network, addr)
	} else {
		err = f.bindTCP(network, addr)
	}
	if err != nil {
		f.end()
		return nil, err
	}
	return f, nil
}

// Remove ends the port that is bound at p's place, with all its connections, if
// there is one.
func (s *Set) Remove(p api.Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.ports {
		if f.SamePlace(p) {
			s.ports = append(s.ports[:i:i], s.ports[i+1:]...)
			f.stop()
			return
		}
	}
}

// Close ends all ports and waits until nothing of them runs. It may be called twice.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, f := range s.ports {
		f.end()
	}
	for _, f := range s.ports {
		f.stop()
	}
	s.ports = nil
}

// stop ends a port and waits until nothing of it runs.
func (f *port) stop() {
	f.end()
	f.close()
	f.work.Wait()
}

// take waits for room for a connection, and reports whether there is; give gives it back.
func (f *port) take() bool {
	select {
	case f.set.slots <- struct{}{}:
		return true
	case <-f.ctx.Done():
		return false
	}
}

func (f *port) give() { <-f.set.slots }

// dial connects to the guest's port.
func (f *port) dial(ctx context.Context, peer netip.AddrPort) (Flow, error) {
	flow, err := f.set.cfg.Dial(ctx, guest.Dial{Proto: f.Proto, Port: f.GuestPort})
	if ctx.Err() == nil {
		f.set.cfg.Seen(f.Port, peer, err)
	}
	return flow, err
}

// cannotBind says why a port cannot be bound.
func cannotBind(p api.Port, err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err // the rest says the address again
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return api.Errorf(api.Conflict, "forward port %s: %s port %d of %s is taken on this host", p, p.Proto, p.HostPort, p.HostIP).
			WithCode(api.CodePortTaken).
			WithRecovery("Free it, or use another: 0:%d picks one. ss -lnp shows who has it.", p.GuestPort)
	case errors.Is(err, syscall.EACCES):
		return api.Errorf(api.Denied, "forward port %s: this user may not bind port %d: %w", p, p.HostPort, err).
			WithRecovery("Use a port above 1023, such as %d:%d, or 0:%d, which picks one.", 8000+p.GuestPort%1000, p.GuestPort, p.GuestPort)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return api.Errorf(api.Unavailable, "forward port %s: this host has no address %s", p, p.HostIP).
			WithRecovery("Use one that ip addr shows, or 0.0.0.0 for all.")
	}
	return api.Errorf(api.Internal, "forward port %s: %w", p, err)
}
