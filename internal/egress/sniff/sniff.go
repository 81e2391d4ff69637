// Package sniff reads what a TCP client says first: a TLS client hello or the
// head of an HTTP/1 request.
//
//	kind := sniff.Detect(b)
//	hello, err := sniff.ReadHello(b)
//	if errors.Is(err, sniff.ErrShort) { // read more and ask again }
//
// The bytes come from a guest that may lie. Nothing is read past fixed bounds,
// nothing is kept, and whatever two readers could take differently is an error:
// a flow whose first bytes are in doubt is not let out by a rule about names.
package sniff

import (
	"bytes"
	"errors"
)

// Bounds of what is looked at.
const (
	MaxHello = 64 << 10 // of a client hello with its record headers
	MaxHead  = 64 << 10 // of a request's head
)

// ErrShort says that the bytes are right so far and more are needed. It is never
// returned for more bytes than the bounds.
var ErrShort = errors.New("more bytes are needed")

// Kind is what first bytes are.
type Kind string

// The kinds. Preface is HTTP/2 without TLS.
const (
	Short   Kind = "short" // cannot be told yet
	TLS     Kind = "tls"
	HTTP1   Kind = "http1"
	Preface Kind = "http2"
	Other   Kind = "other"
)

// preface begins every HTTP/2 connection (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxMethod is the longest method that Detect waits for. The longest in IANA's
// registry has 17 letters.
const maxMethod = 32

// Detect tells kinds by as few bytes as it can. What it calls Other is neither a
// client hello nor a request that a server would answer.
func Detect(b []byte) Kind {
	// Servers skip empty lines in front of a request (RFC 9112 section 2.2).
	for skipped := 0; len(b) > 0 && (b[0] == '\r' || b[0] == '\n'); skipped++ {
		if skipped == 64 {
			return Other
		}
		b = b[1:]
	}
	switch {
	case len(b) == 0:
		return Short
	case b[0] == recordHandshake:
		return detectTLS(b)
	case isSSL2(b):
		return TLS // so that ReadHello refuses it
	case len(b) <= len(preface) && preface[:len(b)] == string(b) && len(b) > 3:
		if len(b) == len(preface) {
			return Preface
		}
		return Short
	case bytes.HasPrefix(b, []byte(preface)):
		return Preface
	}
	for i, c := range b {
		switch {
		case (c == ' ' || c == '\t') && i > 0:
			return HTTP1
		case !tokenChar(c) || i == maxMethod:
			return Other
		}
	}
	return Short
}

func detectTLS(b []byte) Kind {
	if len(b) > 1 && b[1] != 3 {
		return Other
	}
	if len(b) > 5 && b[5] != helloClient {
		return Other
	}
	if len(b) < 6 {
		return Short
	}
	return TLS
}

// isSSL2 knows a hello of SSL 2, which some servers still understand.
func isSSL2(b []byte) bool {
	return len(b) >= 5 && b[0]&0x80 != 0 && b[2] == 1 && (b[3] == 2 && b[4] == 0 || b[3] == 0 && b[4] == 2 || b[3] == 3)
}

// tokenChar reports whether a byte may stand in a method or a header's name
// (RFC 9110 section 5.6.2).
func tokenChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}
