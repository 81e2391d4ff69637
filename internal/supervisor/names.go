package supervisor

import (
	"crypto/rand"
	"strings"
)

// newID returns 12 random letters and digits: 60 bits.
func newID() string { return strings.ToLower(rand.Text()[:12]) }

// newName makes a pronounceable name such as "bafi-tonu": 24 bits, and
// Publish tries again where it is taken.
func newName() string {
	const consonants, vowels = "bdfghklmnprstvwz", "aeio"
	b := make([]byte, 8)
	rand.Read(b)
	var s strings.Builder
	for i, r := range b {
		if i == 4 {
			s.WriteByte('-')
		}
		if i%2 == 0 {
			s.WriteByte(consonants[int(r)%len(consonants)])
		} else {
			s.WriteByte(vowels[int(r)%len(vowels)])
		}
	}
	return s.String()
}
