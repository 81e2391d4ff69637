package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

const (
	// Prefix begins every placeholder, so that they can be searched for.
	Prefix = "smolvm_secret_"
	// placeholderLen is as long as usual API keys are: some clients look at the
	// length of a key.
	placeholderLen = 64
)

// placeholder makes the placeholder of a name. It is of lower-case letters, digits
// and underscores, which no encoding changes; 50 letters of base32 are 250 bits
// that nobody guesses.
func placeholder(key []byte, name string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("smolvm secret placeholder 1\x00" + name))
	s := strings.ToLower(base32.StdEncoding.EncodeToString(m.Sum(nil)))
	return Prefix + s[:placeholderLen-len(Prefix)]
}

// pattern is an exact name, or all names below one.
type pattern struct {
	name  string
	below bool
}

func newPattern(host string) pattern {
	host = strings.ToLower(host)
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		return pattern{rest, true}
	}
	return pattern{host, false}
}

func (p pattern) match(host string) bool {
	if p.below {
		return strings.HasSuffix(host, "."+p.name)
	}
	return host == p.name
}

// meant reports whether a secret is meant for a host.
func (h *held) meant(host string) bool {
	for _, p := range h.hosts {
		if p.match(host) {
			return true
		}
	}
	return false
}
