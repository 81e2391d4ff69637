package cli

import (
	"strings"
	"testing"
	"unicode"
)

// FuzzClean wants nothing that a terminal acts upon to come through.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[2J", "\xff\xfe", "a\tb\nc", "\u202e", "世界"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("clean(%q) = %q lets through what does not print", s, got)
		}
		if clean(got) != got {
			t.Errorf("clean(%q) = %q changes again", s, got)
		}
	})
}

// FuzzFlags wants sizes and times to be refused or to be what can be used.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{"512", "2G", "1.5g", "-1", "NaN", "1e9", "9999999T", "1h30m", "30"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var m mibFlag
		if err := m.Set(s); err == nil && m <= 0 {
			t.Errorf("size %q is %d MiB", s, m)
		}
		var d durationFlag
		if err := d.Set(s); err == nil && d < 0 {
			t.Errorf("time %q is %d ns", s, d)
		}
	})
}
