// Package wire packs the messages of the guest protocol.
//
// A message has one method, Wire, that names its fields in order; the same
// method packs and unpacks. Integers are varints, everything else is a length
// and bytes. A reader that finds the message shorter than it expects leaves the
// remaining fields zero, and ignores what follows the fields it knows: a field
// may be added at the end without breaking an older peer.
//
// No reflection: under software emulation each page of code that the agent
// touches first must be translated, and encoding/json touches many.
package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed is what Unmarshal returns for bytes that no peer of ours sends.
var ErrMalformed = errors.New("wire: malformed message")

// MaxElems bounds the number of elements of a list that is read.
const MaxElems = 1 << 16

// Message is a struct that can name its fields to a Coder.
type Message interface{ Wire(c *Coder) }

// Coder packs or unpacks, whichever it was made for.
type Coder struct {
	b      []byte
	unpack bool
	failed bool
}

// Marshal packs a message.
func Marshal(m Message) []byte {
	c := Coder{b: make([]byte, 0, 128)}
	m.Wire(&c)
	return c.b
}

// Unmarshal unpacks b into m. Strings and byte slices are copied out of b.
func Unmarshal(b []byte, m Message) error {
	c := Coder{b: b, unpack: true}
	m.Wire(&c)
	if c.failed {
		return ErrMalformed
	}
	return nil
}

// Int is a signed integer field.
func (c *Coder) Int(p *int) {
	v := int64(*p)
	c.Int64(&v)
	*p = int(v)
}

// Int64 is a signed integer field.
func (c *Coder) Int64(p *int64) {
	if !c.unpack {
		c.b = binary.AppendVarint(c.b, *p)
		return
	}
	if len(c.b) == 0 {
		return
	}
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return
	}
	*p, c.b = v, c.b[n:]
}

// Bool is a boolean field.
func (c *Coder) Bool(p *bool) {
	var v int64
	if *p {
		v = 1
	}
	c.Int64(&v)
	*p = v != 0
}

// String is a text field; it need not be UTF-8.
func (c *Coder) String(p *string) {
	if !c.unpack {
		c.b = binary.AppendUvarint(c.b, uint64(len(*p)))
		c.b = append(c.b, *p...)
		return
	}
	if b, ok := c.take(); ok {
		*p = string(b)
	}
}

// Bytes is a field of bytes.
func (c *Coder) Bytes(p *[]byte) {
	s := string(*p)
	c.String(&s)
	if c.unpack && len(s) > 0 {
		*p = []byte(s)
	}
}

// Strings is a list of texts.
func (c *Coder) Strings(p *[]string) {
	n := len(*p)
	c.length(&n)
	if c.unpack && n > 0 {
		*p = make([]string, 0, n)
	}
	for i := range n {
		if !c.unpack {
			c.String(&(*p)[i])
			continue
		}
		if c.failed || len(c.b) == 0 {
			c.fail()
			return
		}
		var s string
		c.String(&s)
		*p = append(*p, s)
	}
}

// Sub is a field that is a message itself. It is packed with its length, so that
// its type may grow as a message may.
func (c *Coder) Sub(m Message) {
	if !c.unpack {
		s := string(Marshal(m))
		c.String(&s)
		return
	}
	b, ok := c.take()
	if !ok {
		return
	}
	sub := Coder{b: b, unpack: true}
	m.Wire(&sub)
	if sub.failed {
		c.fail()
	}
}

// List is a list of messages, each packed as by Sub.
func List[T any, P interface {
	*T
	Message
}](c *Coder, p *[]T) {
	n := len(*p)
	c.length(&n)
	if c.unpack && n > 0 {
		*p = make([]T, 0, min(n, 64))
	}
	for i := range n {
		if !c.unpack {
			c.Sub(P(&(*p)[i]))
			continue
		}
		if c.failed || len(c.b) == 0 {
			c.fail()
			return
		}
		var v T
		c.Sub(P(&v))
		*p = append(*p, v)
	}
}

func (c *Coder) length(n *int) {
	c.Int(n)
	// An element takes at least a byte, so what is left bounds their number.
	if *n < 0 || *n > MaxElems || c.unpack && *n > len(c.b) {
		*n = 0
		c.fail()
	}
}

func (c *Coder) take() ([]byte, bool) {
	if len(c.b) == 0 {
		return nil, false
	}
	n, k := binary.Uvarint(c.b)
	if k <= 0 || n > uint64(len(c.b)-k) {
		c.fail()
		return nil, false
	}
	b := c.b[k : k+int(n)]
	c.b = c.b[k+int(n):]
	return b, true
}

func (c *Coder) fail() {
	c.failed = true
	c.b = nil
}
