// Package plain makes text of bytes that programs write, which come in pieces and may
// be no text at all.
//
//	n := plain.Whole(b)       // b[n:] is the beginning of a character: keep it
//	s := plain.Of(b[:n])
package plain

import (
	"strings"
	"unicode/utf8"
)

// Whole is how many bytes of b come before a character whose rest is missing; all of
// them where none is.
func Whole(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return len(b) - n
			}
			break
		}
	}
	return len(b)
}

// Of is b as UTF-8: each byte that is not becomes U+FFFD, as in encoding/json, so
// that it does not matter in which pieces the bytes came.
func Of(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strings.Map(func(r rune) rune { return r }, string(b))
}
