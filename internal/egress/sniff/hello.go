package sniff

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Numbers of TLS (RFC 8446, RFC 6066, RFC 7301, RFC 9849).
const (
	recordHandshake = 22
	helloClient     = 1

	extServerName = 0
	extALPN       = 16
	extECH        = 0xfe0d
	extESNI       = 0xffce // the draft before it

	nameTypeHost = 0
	maxRecord    = 1 << 14
)

// Hello is what a client hello shows.
type Hello struct {
	SNI  string   // the server name, lower case, without a last dot; empty: none
	ALPN []string // protocols the client offers; empty: none
	ECH  bool     // there is an encrypted hello, or something that looks like one
}

// ReadHello reads a client hello from the first bytes of a connection, over as
// many records as it has. ErrShort asks for more bytes.
func ReadHello(b []byte) (Hello, error) {
	if isSSL2(b) {
		return Hello{}, errors.New("the client hello is of SSL 2")
	}
	msg, err := handshake(b)
	if err != nil {
		return Hello{}, err
	}
	h, err := parseHello(msg)
	if err != nil {
		return Hello{}, fmt.Errorf("client hello: %w", err)
	}
	return h, nil
}

// handshake joins the first handshake message out of its records.
func handshake(b []byte) (cursor, error) {
	var msg []byte
	want := -1
	for rest := b; want < 0 || len(msg) < want; {
		if len(rest) < 5 {
			return nil, short(b)
		}
		length := int(rest[3])<<8 | int(rest[4])
		switch {
		case rest[0] != recordHandshake || rest[1] != 3:
			return nil, errors.New("no TLS handshake record")
		case length == 0 || length > maxRecord:
			return nil, errors.New("a TLS record of impossible size")
		case len(rest) < 5+length:
			return nil, short(b)
		}
		msg, rest = append(msg, rest[5:5+length]...), rest[5+length:]
		if len(msg) < 4 {
			continue
		}
		want = 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
		if msg[0] != helloClient || want > MaxHello {
			return nil, errors.New("no client hello of a sane size")
		}
	}
	// A client waits for the answer before it says more.
	if len(msg) > want {
		return nil, errors.New("the client hello is followed by more in its record")
	}
	return msg[4:want], nil
}

func short(b []byte) error {
	if len(b) >= MaxHello {
		return errors.New("the client hello is too large")
	}
	return ErrShort
}

var errHello = errors.New("it does not parse")

// cursor is what is left to read. Its methods report whether there was enough.
type cursor []byte

func (c *cursor) skip(n int) bool {
	if len(*c) < n {
		return false
	}
	*c = (*c)[n:]
	return true
}

// number reads a big-endian number of some bytes.
func (c *cursor) number(size int) (int, bool) {
	b := *c
	if !c.skip(size) {
		return 0, false
	}
	n := 0
	for _, x := range b[:size] {
		n = n<<8 | int(x)
	}
	return n, true
}

// vector reads a length of some bytes and as much as it says.
func (c *cursor) vector(size int) (cursor, bool) {
	n, ok := c.number(size)
	b := *c
	if !ok || !c.skip(n) {
		return nil, false
	}
	return b[:n], true
}

func parseHello(s cursor) (Hello, error) {
	var h Hello
	ok := s.skip(2 + 32) // version, random
	session, ok1 := s.vector(1)
	suites, ok2 := s.vector(2)
	compression, ok3 := s.vector(1)
	if !ok || !ok1 || !ok2 || !ok3 || len(session) > 32 || len(suites) == 0 || len(suites)%2 != 0 || len(compression) == 0 {
		return h, errHello
	}
	if len(s) == 0 {
		return h, nil // no extensions: an old client
	}
	extensions, ok := s.vector(2)
	if !ok || len(s) > 0 {
		return h, errHello
	}
	seen := map[int]bool{}
	for len(extensions) > 0 {
		id, ok := extensions.number(2)
		body, ok1 := extensions.vector(2)
		if !ok || !ok1 {
			return h, errHello
		}
		if seen[id] { // RFC 8446 section 4.2
			return h, fmt.Errorf("extension %d is there twice", id)
		}
		seen[id] = true
		if err := h.extension(id, body); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h *Hello) extension(id int, body cursor) error {
	switch id {
	case extServerName:
		return h.serverName(body)
	case extALPN:
		list, ok := body.vector(2)
		if !ok || len(body) > 0 || len(list) == 0 {
			return errHello
		}
		for len(list) > 0 {
			name, ok := list.vector(1)
			if !ok || len(name) == 0 {
				return errHello
			}
			h.ALPN = append(h.ALPN, string(name))
		}
	case extECH, extESNI:
		h.ECH = true
	}
	return nil
}

// serverName takes the one name there may be (RFC 6066 section 3).
func (h *Hello) serverName(body cursor) error {
	list, ok := body.vector(2)
	kind, ok1 := list.number(1)
	name, ok2 := list.vector(2)
	switch {
	case !ok || !ok1 || !ok2 || len(body) > 0:
		return errHello
	case kind != nameTypeHost || len(list) > 0:
		return errors.New("more than one server name")
	case len(name) == 0 || len(name) > 255 || slices.ContainsFunc(name, func(c byte) bool { return c <= ' ' || c >= 0x7f }):
		return errors.New("a server name of impossible bytes")
	}
	h.SNI = strings.ToLower(strings.TrimSuffix(string(name), "."))
	if h.SNI == "" {
		return errors.New("an empty server name")
	}
	return nil
}
