package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// A frame is a header of 8 bytes (magic, kind, length of the payload as 16 bits,
// stream as 32 bits, both big-endian), the payload, and one byte that ends it.
const (
	magic     = 0xA5
	headerLen = 8
	overhead  = headerLen + 1

	// MaxPayload bounds the payload of a frame, in bytes: the driver of the port
	// in the guest moves at most 32 KiB at once.
	MaxPayload = 32 << 10
	// MaxFrame is the longest frame, in bytes.
	MaxFrame = overhead + MaxPayload
)

// The byte that ends a frame tells a whole frame from one whose rest was lost
// and replaced by the filler (zeros) or by a greeting. No other byte of a
// greeting has either value.
const (
	tail         = 0xE5
	tailGreeting = 0x0A
)

// The kinds of the carrier itself.
const (
	kindHello  = 1 + iota // greeting of the host
	kindAck               // the guest's answer to it
	kindCredit            // 32 bits: so many more bytes may be sent
	kindEnd               // the sender's last frame of the stream
	kindReset             // the stream is over for both sides

	// FirstKind is the first kind that is free for messages.
	FirstKind = 16
)

// greetingText begins a greeting; the protocol's version (2 hex digits), a space
// and the nonce follow.
const (
	greetingText = "smolvm guest protocol "
	nonceLen     = 32 // hex digits
	greetingLen  = len(greetingText) + 2 + 1 + nonceLen
)

var errFrame = errors.New("mux: malformed frame")

type frame struct {
	kind    uint8
	stream  uint32
	payload []byte // valid until the parser is filled again
}

// appendFrame packs a frame.
func appendFrame(b []byte, kind uint8, stream uint32, p []byte) []byte {
	b = append(b, magic, kind, byte(len(p)>>8), byte(len(p)))
	b = binary.BigEndian.AppendUint32(b, stream)
	b = append(b, p...)
	return append(b, tailOf(kind))
}

func tailOf(kind uint8) byte {
	if kind == kindHello || kind == kindAck {
		return tailGreeting
	}
	return tail
}

// appendGreeting packs a hello or its answer.
func appendGreeting(b []byte, kind uint8, version int, nonce string) []byte {
	const digits = "0123456789abcdef"
	p := make([]byte, 0, greetingLen)
	p = append(p, greetingText...)
	p = append(p, digits[version>>4&15], digits[version&15], ' ')
	p = append(p, nonce...)
	return appendFrame(b, kind, 0, p)
}

// greetingStart is how every greeting of a kind begins.
func greetingStart(kind uint8) []byte {
	b := appendGreeting(nil, kind, 0, "")
	b[2], b[3] = byte(greetingLen>>8), byte(greetingLen&0xff)
	return b[:headerLen+len(greetingText)]
}

// parseGreeting returns the version and the nonce of a greeting's payload.
func parseGreeting(p []byte) (version int, nonce string, ok bool) {
	if len(p) != greetingLen || string(p[:len(greetingText)]) != greetingText {
		return 0, "", false
	}
	p = p[len(greetingText):]
	hi, lo := unhex(p[0]), unhex(p[1])
	if hi < 0 || lo < 0 || p[2] != ' ' {
		return 0, "", false
	}
	for _, c := range p[3:] {
		if unhex(c) < 0 {
			return 0, "", false
		}
	}
	return hi<<4 | lo, string(p[3:]), true
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// parser cuts a byte stream into frames. It holds at most bufLen bytes.
type parser struct {
	buf  []byte
	r, w int
}

// bufLen lets one read take in a whole frame behind the rest of another.
const bufLen = 2 * MaxFrame

func newParser() *parser { return &parser{buf: make([]byte, bufLen)} }

// fill reads once. What next returned before is invalid after it.
func (p *parser) fill(r io.Reader) error {
	if p.r == p.w {
		p.r, p.w = 0, 0
	} else if len(p.buf)-p.w < MaxFrame {
		p.w = copy(p.buf, p.buf[p.r:p.w])
		p.r = 0
	}
	n, err := r.Read(p.buf[p.w:])
	p.w += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// next returns the next frame; ok is false where more bytes are needed. After
// errFrame the parser stands where the frame should have begun.
func (p *parser) next() (f frame, ok bool, err error) {
	b := p.buf[p.r:p.w]
	if len(b) == 0 {
		return frame{}, false, nil
	}
	if b[0] != magic {
		return frame{}, false, errFrame
	}
	if len(b) < headerLen {
		return frame{}, false, nil
	}
	n := int(b[2])<<8 | int(b[3])
	if n > MaxPayload {
		return frame{}, false, errFrame
	}
	if len(b) < overhead+n {
		return frame{}, false, nil
	}
	if b[headerLen+n] != tailOf(b[1]) {
		return frame{}, false, errFrame
	}
	p.r += overhead + n
	return frame{b[1], binary.BigEndian.Uint32(b[4:]), b[headerLen : headerLen+n]}, true, nil
}

// seek drops bytes until the next are seq, and reports whether they are. It
// keeps what may be the start of seq.
func (p *parser) seek(seq []byte) bool {
	b := p.buf[p.r:p.w]
	if i := bytes.Index(b, seq); i >= 0 {
		p.r += i
		return true
	}
	keep := min(len(seq)-1, len(b))
	for keep > 0 && !bytes.HasPrefix(seq, b[len(b)-keep:]) {
		keep--
	}
	p.r = p.w - keep
	return false
}

// skip drops a byte, so that a search does not find the same place again.
func (p *parser) skip() { p.r++ }

func (p *parser) reset() { p.r, p.w = 0, 0 }
