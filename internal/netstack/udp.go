package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// refusedFor is how long a denied UDP or echo flow swallows what else comes:
	// a guest that floods asks once in this time.
	refusedFor = 2 * time.Second
)

// handleUDP gets the datagrams that belong to no flow. False makes the stack
// answer that the port is unreachable.
func (n *Network) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	head := pkt.TransportHeader().Slice()
	if len(head) < header.UDPMinimumSize {
		return true
	}
	if id.LocalPort == dnsPort {
		n.handleQuestion(id, pkt.Data().AsRange().ToSlice())
		return true
	}
	if !n.open(n.udpSlots) {
		n.refuse(id)
		return true
	}
	u := &udpFlow{n: n, origin: originOf(id, protoUDP, head), flow: n.newFlow(UDP, id)}
	ep, err := udp.NewForwarderRequest(n.stack, id, pkt.Clone()).CreateEndpoint(&u.queue)
	if err != nil {
		n.close(n.udpSlots)
		return true
	}
	ep.SocketOptions().SetReceiveBufferSize(udpBuffer, true)
	u.guest = gonet.NewUDPConn(&u.queue, ep)
	n.wg.Add(1)
	go u.run()
	return true
}

// handleQuestion answers a DNS datagram, if there is room for one more.
func (n *Network) handleQuestion(id stack.TransportEndpointID, wire []byte) {
	if !n.questions.try() {
		n.refuse(id)
		return
	}
	guest := netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort)
	server := netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort)
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		defer n.questions.release()
		n.answerQuestion(server, guest, wire)
	}()
}

func (n *Network) answerQuestion(server, guest netip.AddrPort, wire []byte) {
	if n.meter.up.take(n.ctx, len(wire)) != nil {
		return
	}
	reply := n.dns.serve(n.ctx, Question{Proto: UDP, Src: guest}, wire, n.cfg.MTU-ip6Header-udpHeader)
	if reply == nil || n.meter.down.take(n.ctx, len(reply)) != nil {
		return
	}
	_ = n.meter.spend(len(wire) + len(reply)) // beyond the quota there are answers too: that there are none
	n.sendUDP(server, guest, reply)
}

// udpFlow is the datagrams between one port of the guest and one of the world.
type udpFlow struct {
	n      *Network
	origin origin
	flow   Flow
	guest  *gonet.UDPConn
	queue  waiter.Queue
	ends   <-chan struct{} // Decision.Ends

	sent, received atomic.Int64
	last           atomic.Int64 // Unix nanoseconds of the last datagram
}

func (u *udpFlow) run() {
	defer u.n.wg.Done()
	defer u.n.close(u.n.udpSlots)
	defer u.guest.Close()
	d := u.n.decide(u.n.live, u.flow)
	if d.Verdict != Allow {
		if d.How != Drop {
			u.n.sendUnreachable(u.origin, refusedByPolicy)
		}
		u.n.pause(refusedFor)
		return
	}
	u.ends = d.Ends
	began := time.Now()
	host, err := u.n.dial(u.n.live, u.flow, d)
	e := Event{Kind: EventEnd, Flow: u.flow, Verdict: Allow}
	if err == nil {
		e.Dialed = host.RemoteAddr().String()
		if err = u.relay(host); err == nil {
			err = context.Cause(u.n.live)
		}
	} else if outcomeOf(err) != looksSilent {
		u.n.sendUnreachable(u.origin, refusedHost)
	}
	e.Sent, e.Received, e.Duration = u.sent.Load(), u.received.Load(), time.Since(began)
	if err != nil {
		e.Reason = err.Error()
	}
	u.n.record(e)
}

// pause waits, but not longer than the network lives.
func (n *Network) pause(d time.Duration) { sleep(n.ctx, d) }

// relay passes datagrams both ways until the flow is idle, the host says that
// nobody listens, or the network ends. It closes host.
func (u *udpFlow) relay(host net.Conn) error {
	u.touch()
	up := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		up <- u.copy(host, u.guest, u.n.meter.up, &u.sent)
		host.Close()
	}()
	down := make(chan error, 1)
	go func() {
		down <- u.copy(u.guest, host, u.n.meter.down, &u.received)
		close(ended)
		_ = u.guest.SetReadDeadline(time.Unix(1, 0)) // ends the other copy
	}()
	u.watch(ended)
	host.Close()
	err := <-down
	if upErr := <-up; err == nil || errors.Is(err, net.ErrClosed) {
		err = upErr
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		u.n.sendUnreachable(u.origin, refusedPort)
		return err
	case err == nil, errors.Is(err, net.ErrClosed), isTimeout(err):
		return nil // ended by us
	}
	return err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func (u *udpFlow) touch() { u.last.Store(time.Now().UnixNano()) }

// watch returns when the flow is idle or has ended.
func (u *udpFlow) watch(ended <-chan struct{}) {
	limit := u.n.cfg.Limits.UDPIdle
	for {
		left := limit - time.Since(time.Unix(0, u.last.Load()))
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ended:
			timer.Stop()
			return
		case <-u.ends:
			timer.Stop()
			return
		case <-u.n.live.Done():
			timer.Stop()
			return
		}
	}
}

// copy passes datagrams on. One that cannot be sent is lost, as datagrams are;
// that nobody listens is an answer to the guest.
func (u *udpFlow) copy(to, from net.Conn, b *bucket, count *atomic.Int64) error {
	large := largeBuffers.Get().(*[largeCopy]byte)
	defer largeBuffers.Put(large)
	for {
		k, err := from.Read(large[:])
		if err != nil {
			return err
		}
		u.touch()
		if err := u.n.meter.pass(u.n.live, b, k); err != nil {
			return err
		}
		_, err = to.Write(large[:k])
		switch {
		case err == nil:
			count.Add(int64(k))
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, net.ErrClosed):
			return err
		}
	}
}
