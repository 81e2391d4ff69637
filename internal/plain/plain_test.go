package plain_test

import (
	"encoding/json"
	"testing"

	"github.com/smolvm/smolvm/internal/plain"
)

func TestWhole(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "a": 1, "é": 2, "é\xc3": 2, "a\xe2\x82": 1, "€": 3, "\xf0\x9f\x98": 0, "😀": 4,
		"a\xff": 2, "a\x80\x80": 3, "\x80\x80\x80\x80\x80": 5, // no beginning of anything: nothing to wait for
	} {
		if got := plain.Whole([]byte(in)); got != want {
			t.Errorf("%q: %d bytes, want %d", in, got, want)
		}
	}
}

// FuzzPieces wants the same text of bytes wherever they are cut, and what encoding/json
// makes of them.
func FuzzPieces(f *testing.F) {
	for _, s := range []string{"", "plain", "a€b", "\xff\xfe\xc3", "\xe2\x82a", "\xf0\x9f\x98\x80\xf0\x9f"} {
		f.Add([]byte(s), 2)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = max(0, min(cut, len(b)))
		n := plain.Whole(b[:cut])
		got := plain.Of(b[:n]) + plain.Of(b[n:])
		if want := plain.Of(b); got != want {
			t.Errorf("%q cut at %d: %q, want %q", b, n, got, want)
		}
		var there string
		if j, err := json.Marshal(string(b)); err != nil || json.Unmarshal(j, &there) != nil || there != plain.Of(b) {
			t.Errorf("%q: %q, as JSON %q", b, plain.Of(b), there)
		}
	})
}
