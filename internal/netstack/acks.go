package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// ackDelay is how long a segment that only acknowledges waits for one that says
	// more: the stack sends one at once for all that comes, and each frame costs
	// the guest an interrupt. It is far below what others wait (RFC 1122, 4.2.3.2).
	ackDelay = 2 * time.Millisecond
	// maxHeldAcks bounds the flows whose acknowledgements wait.
	maxHeldAcks = 64
	// plainTCP is the longest header of such a segment: with timestamps, but
	// without selective acknowledgements.
	plainTCP = header.TCPMinimumSize + header.TCPOptionTSLength + 2
)

// heldAcks keeps bare acknowledgements back for a moment: what their flow sends
// next acknowledges the same, and every second one goes at once. Nothing else can
// be told from them on a wire that loses nothing on its way to us. The card's mu
// guards it.
type heldAcks struct {
	card  *card
	held  map[ackKey][]byte // frames with their lengths
	timer *time.Timer       // runs while there are any
	delay time.Duration     // 0: none waits
}

type ackKey struct {
	local, remote         tcpip.Address
	localPort, remotePort uint16
}

func (h *heldAcks) init(c *card) {
	h.card, h.delay, h.held = c, ackDelay, map[ackKey][]byte{}
	h.timer = time.AfterFunc(time.Hour, h.flush)
	h.timer.Stop()
}

// hold keeps pkt if it may wait; what it makes superfluous is forgotten.
func (h *heldAcks) hold(pkt *stack.PacketBuffer, parts [][]byte) bool {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if len(tcp) < header.TCPMinimumSize {
		return false
	}
	key := ackKey{localPort: tcp.SourcePort(), remotePort: tcp.DestinationPort()}
	key.local, key.remote = pkt.Network().SourceAddress(), pkt.Network().DestinationAddress()
	_, before := h.held[key]
	if before {
		delete(h.held, key)
		if len(h.held) == 0 {
			h.timer.Stop() // or it would wake us for nothing
		}
	}
	if before || h.delay == 0 || tcp.Flags() != header.TCPFlagAck || len(tcp) > plainTCP || pkt.Data().Size() > 0 || len(h.held) >= maxHeldAcks {
		return false
	}
	if len(h.held) == 0 {
		h.timer.Reset(h.delay)
	}
	frame := make([]byte, 0, 128)
	for _, p := range parts {
		frame = append(frame, p...)
	}
	h.held[key] = frame
	return true
}

func (h *heldAcks) flush() {
	h.card.mu.Lock()
	defer h.card.mu.Unlock()
	for key, frame := range h.held {
		delete(h.held, key)
		h.card.put([][]byte{frame})
	}
}

func (h *heldAcks) stop() {
	h.timer.Stop()
	clear(h.held)
}
