package cli

import (
	"errors"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestParseHostPort(t *testing.T) {
	for word, want := range map[string]api.Port{
		"8080":         {HostPort: 8080},
		"53/udp":       {HostPort: 53, Proto: "udp"},
		"0.0.0.0:80":   {HostPort: 80, HostIP: "0.0.0.0"},
		"[::1]:80/tcp": {HostPort: 80, HostIP: "::1", Proto: "tcp"},
	} {
		if p, err := parseHostPort(word); err != nil || p != want {
			t.Errorf("%s: %+v, %v", word, p, err)
		}
	}
	for _, word := range []string{"", "0", "x", "8080:80", "1.2.3.4:", "::1", "80/icmp", "65536", "localhost:80"} {
		if p, err := parseHostPort(word); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: %+v, %v", word, p, err)
		}
	}
}
