package seal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
)

var testKey = Key{1, 2, 3}

const testDoc = `{"name":"web","parts":["base","delta"]}`

func TestSignAndOpen(t *testing.T) {
	for _, doc := range []string{"", "x", testDoc, strings.Repeat("long\n", 1<<16)} {
		got, err := testKey.Open(testKey.Sign([]byte(doc)))
		if err != nil || string(got) != doc {
			t.Errorf("%.20q came back as %.20q, %v", doc, got, err)
		}
	}
}

// TestMarkStays keeps files of earlier versions readable.
func TestMarkStays(t *testing.T) {
	const want = "smolvm-sealed-1 46548f8affc2293ae716343b4dd4fc0cdc776e0b85b46e33e5e743974dd1be78\n" + testDoc
	if got := string(testKey.Sign([]byte(testDoc))); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := testKey.Sign([]byte(testDoc))
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		refused(t, fmt.Sprintf("bit %d flipped", bit), bad)
	}
	for n := range len(good) {
		refused(t, fmt.Sprintf("cut to %d", n), good[:n])
		refused(t, fmt.Sprintf("%d cut off in front", n+1), good[n+1:])
	}
	for _, more := range []string{" ", "\n", "\x00", testDoc} {
		refused(t, "appended", append(bytes.Clone(good), more...))
		refused(t, "put before", append([]byte(more), good...))
	}
	upper := []byte(strings.ToUpper(string(good[:markLen])) + testDoc)
	copy(upper, markWord)
	refused(t, "mark in capitals", upper)
	other := Key{1, 2, 4}
	refused(t, "another key", other.Sign([]byte(testDoc)))
}

func refused(t *testing.T, what string, sealed []byte) {
	t.Helper()
	doc, err := testKey.Open(sealed)
	var e *api.Error
	if doc != nil || !errors.As(err, &e) || e.Class != api.Denied || e.Code != CodeAltered || e.Recovery == "" {
		t.Errorf("%s: %q, %v", what, doc, err)
	}
}

func TestUnverified(t *testing.T) {
	sealed := Key{9}.Sign([]byte(testDoc))
	if doc, err := Unverified(sealed); err != nil || string(doc) != testDoc {
		t.Errorf("%q, %v", doc, err)
	}
	if doc, err := Unverified([]byte(testDoc)); !errors.Is(err, api.ErrDenied) {
		t.Errorf("without a mark: %q, %v", doc, err)
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	key := Key(bytes.Repeat([]byte("k"), KeySize))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(verb, key); strings.Contains(text, "kkk") || strings.Contains(text, "107") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func FuzzOpen(f *testing.F) {
	good := testKey.Sign([]byte(testDoc))
	f.Add(good)
	f.Add(good[:markLen])
	f.Add([]byte(markWord))
	f.Add([]byte(testDoc))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := testKey.Open(b)
		if err == nil && !bytes.Equal(b, testKey.Sign(doc)) {
			t.Errorf("%q was accepted, which nobody signed", b)
		}
	})
}
