package netstack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
)

// Echo requests to outside go through an ICMP socket of the kernel, which needs
// no privilege where net.ipv4.ping_group_range has our group. Elsewhere the guest
// hears that it is prohibited.

const (
	pingIdle    = 10 * time.Second
	pingBacklog = 8
	// maxEcho bounds the message; larger ones are for tests of links, not of hosts.
	maxEcho = 8 << 10
)

type pingKey struct {
	dst   netip.Addr
	ident uint16
}

// pings are the echo flows, each one program of the guest that pings one host.
type pings struct {
	mu   sync.Mutex
	open map[pingKey]chan []byte
}

func (p *pings) init() { p.open = map[pingKey]chan []byte{} }

// handleEcho passes an echo request of the guest to its flow.
func (n *Network) handleEcho(p packet) {
	if len(p.payload) > maxEcho {
		p.drop = dropOversized
		n.dropped(p)
		return
	}
	key := pingKey{p.dst, binary.BigEndian.Uint16(p.payload[4:])}
	message := append([]byte(nil), p.payload...)
	n.pings.mu.Lock()
	defer n.pings.mu.Unlock()
	requests, ok := n.pings.open[key]
	if !ok {
		if !n.open(n.pingSlots) {
			n.count.refused.Add(1)
			p.drop = dropLimit
			n.dropped(p)
			return
		}
		requests = make(chan []byte, pingBacklog)
		n.pings.open[key] = requests
		e := &echoFlow{n: n, key: key, src: p.src, requests: requests, origin: origin{src: p.src, dst: p.dst, proto: p.proto}}
		copy(e.origin.transport[:], message)
		n.wg.Add(1)
		go e.run()
	}
	select {
	case requests <- message:
	default: // faster than anyone pings
	}
}

// echoFlow is the echo requests of one program to one host.
type echoFlow struct {
	n        *Network
	key      pingKey
	src      netip.Addr
	requests chan []byte
	origin   origin
	ends     <-chan struct{} // Decision.Ends
}

func (e *echoFlow) run() {
	defer e.n.wg.Done()
	defer func() {
		e.n.pings.mu.Lock()
		delete(e.n.pings.open, e.key)
		e.n.pings.mu.Unlock()
		e.n.close(e.n.pingSlots)
	}()
	f := e.n.flowBetween(ICMP, netip.AddrPortFrom(e.src, 0), netip.AddrPortFrom(e.key.dst, 0))
	d := e.n.decide(e.n.live, f)
	if d.Verdict != Allow {
		e.refuse(d.How)
		return
	}
	e.ends = d.Ends
	began := time.Now()
	end := Event{Kind: EventEnd, Flow: f, Verdict: Allow, Dialed: e.key.dst.String()}
	conn, err := openPing(e.key.dst)
	if err == nil {
		err = e.relay(conn, &end)
	} else {
		e.refuse(Unreachable)
	}
	end.Duration = time.Since(began)
	if err != nil {
		end.Reason = err.Error()
	}
	e.n.record(end)
}

func (e *echoFlow) refuse(how Refusal) {
	if how != Drop {
		e.n.sendUnreachable(e.origin, refusedByPolicy)
	}
	e.n.pause(refusedFor)
}

func openPing(dst netip.Addr) (*icmp.PacketConn, error) {
	if dst.Is4() {
		return icmp.ListenPacket("udp4", "0.0.0.0")
	}
	return icmp.ListenPacket("udp6", "::")
}

// relay sends requests until there are none for a while. It closes conn.
func (e *echoFlow) relay(conn *icmp.PacketConn, end *Event) error {
	replies := make(chan int64, 1)
	go func() { replies <- e.readReplies(conn) }()
	var failed error
	to := &net.UDPAddr{IP: e.key.dst.AsSlice()}
	for idle := time.NewTimer(pingIdle); failed == nil; {
		select {
		case m := <-e.requests:
			idle.Reset(pingIdle)
			if e.n.meter.pass(e.n.live, e.n.meter.up, len(m)) != nil {
				continue // over: the next turn ends it
			}
			if _, failed = conn.WriteTo(m, to); failed == nil {
				end.Sent += int64(len(m))
			}
			continue
		case <-idle.C:
		case <-e.ends:
			idle.Stop()
		case <-e.n.live.Done():
			idle.Stop()
		}
		break
	}
	conn.Close()
	end.Received = <-replies
	if failed != nil {
		e.n.sendUnreachable(e.origin, refusedHost)
	}
	return failed
}

// readReplies passes replies on, with the number that the guest's program gave
// its requests: the kernel has put its own in.
func (e *echoFlow) readReplies(conn *icmp.PacketConn) (received int64) {
	buf := make([]byte, maxEcho)
	for {
		k, from, err := conn.ReadFrom(buf)
		if err != nil {
			return received // closed, or no longer of use: requests go unanswered
		}
		peer, ok := from.(*net.UDPAddr)
		if !ok || k < icmpHeader || peer.AddrPort().Addr().Unmap() != e.key.dst || !isReply(buf[0], e.key.dst) {
			continue
		}
		if e.n.meter.pass(e.n.live, e.n.meter.down, k) != nil {
			return received
		}
		received += int64(k)
		binary.BigEndian.PutUint16(buf[4:], e.key.ident)
		e.n.sendICMP(e.key.dst, e.src, buf[:k])
	}
}

func isReply(kind byte, from netip.Addr) bool {
	if from.Is4() {
		return kind == 0
	}
	return kind == icmp6EchoReply
}
