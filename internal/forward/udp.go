package forward

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
)

// Of the datagrams of one peer that wait for the guest at most these are held.
const (
	udpQueue      = 64
	udpQueueBytes = 256 << 10
)

// udpPort is a port of the host whose peers have conversations with the guest.
type udpPort struct {
	*port
	conn *net.UDPConn

	mu    sync.Mutex
	peers map[netip.AddrPort]*peer
}

// peer is one conversation.
type peer struct {
	addr netip.AddrPort
	in   chan []byte
	end  context.CancelFunc
	idle *time.Timer // ends it

	// Guarded by udpPort.mu.
	bytes    int // in in
	answered bool
	since    time.Time
}

// bindUDP binds a socket and serves it.
func (f *port) bindUDP(network, addr string) error {
	a, err := net.ResolveUDPAddr(network, addr)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP(network, a)
	if err != nil {
		return err
	}
	f.HostPort = conn.LocalAddr().(*net.UDPAddr).Port
	f.close = conn.Close
	u := &udpPort{port: f, conn: conn, peers: map[netip.AddrPort]*peer{}}
	f.work.Go(u.serve)
	return nil
}

func (u *udpPort) serve() {
	buf := make([]byte, guest.MaxDatagram)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if u.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // about an earlier datagram that was sent
		}
		u.receive(from, buf[:n])
	}
}

// receive queues a datagram for its peer's conversation, or drops it.
func (u *udpPort) receive(from netip.AddrPort, datagram []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.peers[from]
	if p == nil {
		if p = u.begin(from); p == nil {
			return
		}
	}
	if p.bytes+len(datagram) > udpQueueBytes {
		return
	}
	select {
	case p.in <- append([]byte(nil), datagram...):
		p.bytes += len(datagram)
	default:
	}
}

// begin begins a conversation, if there is room. Called with mu held.
func (u *udpPort) begin(from netip.AddrPort) *peer {
	if len(u.peers) >= udpPeers && !u.evict() {
		return nil
	}
	select {
	case u.set.talks <- struct{}{}:
	default:
		return nil
	}
	ctx, end := context.WithCancel(u.ctx)
	p := &peer{addr: from, in: make(chan []byte, udpQueue), end: end, since: time.Now()}
	p.idle = time.AfterFunc(udpUnanswered, end)
	u.peers[from] = p
	u.work.Go(func() {
		defer func() { <-u.set.talks }()
		u.converse(ctx, p)
		end()
		p.idle.Stop()
		u.forget(p)
	})
	return p
}

// evict ends the oldest conversation that was never answered: who floods a port
// with addresses that are not its own must not drive out those who talk. Called
// with mu held.
func (u *udpPort) evict() bool {
	var oldest *peer
	for _, p := range u.peers {
		if !p.answered && (oldest == nil || p.since.Before(oldest.since)) {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	oldest.end()
	delete(u.peers, oldest.addr)
	return true
}

func (u *udpPort) forget(p *peer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.peers[p.addr] == p {
		delete(u.peers, p.addr)
	}
}

// converse serves one conversation until ctx ends or the guest does.
func (u *udpPort) converse(ctx context.Context, p *peer) {
	flow, err := u.dial(ctx, p.addr)
	if err != nil {
		slog.Debug("forward a datagram", "port", u.Port.String(), "err", err)
		return
	}
	defer flow.Close()
	stop := context.AfterFunc(ctx, func() { flow.Close() })
	defer stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		u.answers(flow, p)
	}()
	u.questions(ctx, flow, p, back)
	flow.Close()
	<-back
}

// questions passes what the peer sends.
func (u *udpPort) questions(ctx context.Context, flow Flow, p *peer, over <-chan struct{}) {
	for {
		select {
		case datagram := <-p.in:
			u.mu.Lock()
			p.bytes -= len(datagram)
			u.mu.Unlock()
			if flow.Send(datagram) != nil {
				return
			}
			u.touch(p, false)
		case <-over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// answers passes what the guest sends.
func (u *udpPort) answers(flow Flow, p *peer) {
	for {
		datagram, err := flow.Recv()
		if err != nil {
			return
		}
		u.touch(p, true)
		u.conn.WriteToUDPAddrPort(datagram, p.addr) // it may get lost
	}
}

// touch keeps a conversation alive.
func (u *udpPort) touch(p *peer, answered bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.answered = p.answered || answered
	if p.answered {
		p.idle.Reset(udpIdle)
	}
}
