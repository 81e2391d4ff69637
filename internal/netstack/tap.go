package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Tap sees every frame, also those that are then dropped (but oversized ones). It
// is called from the paths of packets, from several goroutines, must not block
// and must not keep the frame.
type Tap interface {
	Frame(fromGuest bool, frame []byte)
}

// tapHolder is a Tap that can be changed while frames flow.
type tapHolder struct{ p atomic.Pointer[Tap] }

func (h *tapHolder) frame(fromGuest bool, frame []byte) {
	if t := h.p.Load(); t != nil {
		(*t).Frame(fromGuest, frame)
	}
}

// parts is frame for a frame to the guest with its length, in parts.
func (h *tapHolder) parts(parts [][]byte) {
	if h.p.Load() != nil {
		h.frame(false, bytes.Join(parts, nil)[lengthSize:])
	}
}

// SetTap makes t see every frame from now on; nil ends it.
func (n *Network) SetTap(t Tap) {
	if t == nil {
		n.tap.p.Store(nil)
		return
	}
	n.tap.p.Store(&t)
}

// Pcapng is a Tap that writes frames as a pcapng capture. Frames that a slow
// writer has no time for are the caller's problem: give it a buffered or dropping
// one. After the first error, and beyond its limit, it writes nothing.
type Pcapng struct {
	mu   sync.Mutex
	w    io.Writer
	left int64
	err  error
	now  func() time.Time
}

// Blocks of the format.
const (
	pcapSection   = 0x0a0d0d0a
	pcapInterface = 1
	pcapPacket    = 6
	pcapMagic     = 0x1a2b3c4d
	pcapEthernet  = 1
	pcapEnd       = 4 // bytes of the length that ends a block
)

// NewPcapng starts a capture of at most limit bytes in w (0: no limit).
func NewPcapng(w io.Writer, limit int64) (*Pcapng, error) {
	if limit == 0 {
		limit = 1 << 62
	}
	p := &Pcapng{w: w, left: limit, now: time.Now}
	section := make([]byte, 0, 64)
	section = le32(section, pcapSection, 28, pcapMagic, 1 /* version 1.0 */, 0xffffffff, 0xffffffff /* length unknown */, 28)
	section = le32(section, pcapInterface, 20, pcapEthernet, 0 /* frames are whole */, 20)
	p.write(section)
	return p, p.err
}

// Frame implements Tap.
func (p *Pcapng) Frame(fromGuest bool, frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := uint64(p.now().UnixMicro())
	padded := (len(frame) + 3) &^ 3
	const fixed, options = 28, 12
	total := uint32(fixed + padded + options + pcapEnd)
	direction := uint32(2) // outbound, as the gateway sees it
	if fromGuest {
		direction = 1
	}
	b := make([]byte, 0, total)
	b = le32(b, pcapPacket, total, 0, uint32(at>>32), uint32(at), uint32(len(frame)), uint32(len(frame)))
	b = append(b, frame...)
	b = append(b, make([]byte, padded-len(frame))...)
	b = le32(b, 2|4<<16 /* option flags, 4 bytes */, direction, 0 /* end of options */, total)
	p.write(b)
}

// Err returns the first error of the writer.
func (p *Pcapng) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *Pcapng) write(b []byte) {
	if p.err != nil || int64(len(b)) > p.left {
		p.left = 0
		return
	}
	p.left -= int64(len(b))
	_, p.err = p.w.Write(b)
}

func le32(b []byte, words ...uint32) []byte {
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}
