package netstack

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// dnsPort is answered by us, whoever it was meant for.
const dnsPort = 53

// syns are the connections that the guest began and that are not answered yet.
// What their first packets said is kept: an ICMP error must repeat it.
type syns struct {
	mu      sync.Mutex
	max     int
	pending map[stack.TransportEndpointID]origin
}

func (s *syns) init(limit int) {
	s.max, s.pending = limit, map[stack.TransportEndpointID]origin{}
}

func (s *syns) remove(id stack.TransportEndpointID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
}

// add reports whether the connection is new, and whether there is room for it.
func (s *syns) add(id stack.TransportEndpointID, o origin) (isNew, room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pending[id]; ok {
		return false, true
	}
	if len(s.pending) >= s.max {
		return true, false
	}
	s.pending[id] = o
	return true, true
}

func (s *syns) origin(id stack.TransportEndpointID) origin {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[id]
}

// handleTCP gets the segments that belong to no endpoint. False makes the stack
// reset their sender.
func (n *Network) handleTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	head := header.TCP(pkt.TransportHeader().Slice())
	if len(head) < header.TCPMinimumSize || head.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	isNew, room := n.syns.add(id, originOf(id, protoTCP, head))
	switch {
	case !isNew:
		return true // sent again while we decide
	case !room:
		n.refuse(id)
		return true
	}
	forwarder := n.wide
	if len(n.tcpSlots) >= manyFlows {
		forwarder = n.narrow
	}
	n.wg.Add(1)
	if !forwarder.HandlePacket(id, pkt) {
		n.syns.remove(id)
		n.wg.Done()
		return false
	}
	return true
}

func originOf(id stack.TransportEndpointID, proto uint8, transport []byte) origin {
	o := origin{src: fromAddress(id.RemoteAddress), dst: fromAddress(id.LocalAddress), proto: proto}
	copy(o.transport[:], transport)
	return o
}

// refuse counts a flow for which a limit has no room. The guest hears nothing
// and so tries again.
func (n *Network) refuse(id stack.TransportEndpointID) {
	n.count.refused.Add(1)
	n.dropped(packet{drop: dropLimit, src: fromAddress(id.RemoteAddress), dst: fromAddress(id.LocalAddress)})
}

// serveTCP is one connection of the guest, from its first segment to its end.
func (n *Network) serveTCP(r *tcp.ForwarderRequest) {
	defer n.wg.Done()
	id := r.ID()
	t := &tcpFlow{n: n, request: r, id: id, origin: n.syns.origin(id)}
	defer t.answer(nothing)
	if !n.open(n.tcpSlots) {
		n.refuse(id)
		return
	}
	defer n.close(n.tcpSlots)
	ctx, cancel := context.WithCancel(n.live)
	defer cancel()
	t.ctx = ctx
	t.flow = n.newFlow(TCP, id)
	if id.LocalPort == dnsPort {
		t.serveDNS()
		return
	}
	d := n.decide(t.ctx, t.flow)
	switch d.Verdict {
	case Allow:
		t.forward(d)
	case Serve:
		t.serve(d)
	default:
		t.deny(d)
	}
}

// tcpFlow is one connection of the guest.
type tcpFlow struct {
	n       *Network
	ctx     context.Context       // ends with the flow, the network or the quota
	request *tcp.ForwarderRequest // nil once answered
	id      stack.TransportEndpointID
	origin  origin
	flow    Flow
	began   time.Time
	dialed  string
}

// answers to a first segment.
type answer uint8

const (
	nothing answer = iota
	resetting
)

// answer ends the time before the handshake.
func (t *tcpFlow) answer(a answer) {
	if t.request == nil {
		return
	}
	t.request.Complete(a == resetting)
	t.request = nil
	t.n.syns.remove(t.id)
}

func (t *tcpFlow) deny(d Decision) {
	switch d.How {
	case Reset:
		t.answer(resetting)
	case Unreachable:
		t.n.sendUnreachable(t.origin, refusedByPolicy)
	}
	t.answer(nothing)
}

// forward connects the host's side first, so that the guest's handshake tells
// the truth about it.
func (t *tcpFlow) forward(d Decision) {
	t.began = time.Now()
	host, err := t.n.dial(t.ctx, t.flow, d)
	if err != nil {
		t.fail(err)
		return
	}
	t.dialed = host.RemoteAddr().String()
	guest, err := t.accept()
	if err != nil {
		reset(host)
		t.end(nil, err)
		return
	}
	err = Relay(t.ctx, guest, host)
	guest.finish(t.ctx, t.n.cfg.Limits.Linger)
	t.end(guest, err)
}

// fail shows the guest how the host's side failed.
func (t *tcpFlow) fail(err error) {
	switch outcomeOf(err) {
	case looksRefused:
		t.answer(resetting)
	case looksUnreachable:
		t.n.sendUnreachable(t.origin, refusedHost)
	}
	t.answer(nothing)
	t.end(nil, err)
}

func (t *tcpFlow) serveDNS() {
	guest, err := t.accept()
	if err != nil {
		return
	}
	stop := context.AfterFunc(t.ctx, guest.abort)
	defer stop()
	t.n.dns.serveStream(t.ctx, Question{Proto: TCP, Src: t.flow.Src}, guest)
	_ = guest.CloseWrite()
	guest.finish(t.ctx, streamIdle)
}

// end records how an allowed flow ended.
func (t *tcpFlow) end(guest *guestConn, err error) {
	e := Event{Kind: EventEnd, Flow: t.flow, Verdict: Allow, Dialed: t.dialed, Duration: time.Since(t.began)}
	if guest != nil {
		e.Sent, e.Received = guest.sent.Load(), guest.received.Load()
	}
	if err != nil {
		e.Reason = err.Error()
	}
	t.n.record(e)
}

// accept makes the handshake with the guest.
func (t *tcpFlow) accept() (*guestConn, error) {
	if t.ctx.Err() != nil {
		return nil, context.Cause(t.ctx)
	}
	g := &guestConn{ctx: t.ctx, meter: &t.n.meter}
	ep, terr := t.request.CreateEndpoint(&g.queue)
	if terr != nil {
		t.answer(nothing)
		return nil, errors.New(terr.String())
	}
	t.answer(nothing)
	if len(t.n.tcpSlots) > manyFlows {
		ep.SocketOptions().SetSendBufferSize(narrowBuffer, true)
	}
	g.TCPConn, g.ep = gonet.NewTCPConn(&g.queue, ep), ep
	g.idle.start(t.n.cfg.Limits.TCPIdle, g.abort)
	return g, nil
}

// guestConn is the guest's end of a flow.
type guestConn struct {
	*gonet.TCPConn
	ep    tcpip.Endpoint
	queue waiter.Queue
	ctx   context.Context // of its flow
	meter *meter

	sent, received atomic.Int64 // by the guest
	idle           idleTimer
}

// Read counts what the guest sent.
func (g *guestConn) Read(b []byte) (int, error) {
	k, err := g.TCPConn.Read(b[:g.meter.up.piece(len(b))])
	if k > 0 {
		g.sent.Add(int64(k))
		g.idle.seen()
		if late := g.meter.pass(g.ctx, g.meter.up, k); err == nil {
			err = late
		}
	}
	return k, err
}

// Write counts what the guest is sent.
func (g *guestConn) Write(b []byte) (int, error) {
	done := 0
	for {
		piece := b[done : done+g.meter.down.piece(len(b)-done)]
		if err := g.meter.down.take(g.ctx, len(piece)); err != nil {
			return done, err
		}
		k, err := g.TCPConn.Write(piece)
		if k > 0 {
			done += k
			g.received.Add(int64(k))
			g.idle.seen()
			if over := g.meter.spend(k); err == nil {
				err = over
			}
		}
		if err != nil || done == len(b) {
			return done, err
		}
	}
}

// abort resets the connection. It may be called at any time and again.
func (g *guestConn) abort() { g.ep.Abort() }

// Close closes without waiting for the guest.
func (g *guestConn) Close() error {
	g.idle.stop()
	return g.TCPConn.Close()
}

// finish waits until the guest has taken all and said so, then frees the
// connection. A guest that does not in time is reset: nothing of a closed flow
// outlives it.
func (g *guestConn) finish(ctx context.Context, linger time.Duration) {
	g.idle.stop()
	defer g.TCPConn.Close()
	entry, changed := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr | waiter.WritableEvents)
	g.queue.EventRegister(&entry)
	defer g.queue.EventUnregister(&entry)
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for {
		switch tcp.EndpointState(g.ep.State()) {
		case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			g.abort()
			return
		case <-ctx.Done():
			g.abort()
			return
		}
	}
}
