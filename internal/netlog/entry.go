package netlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/smolvm/smolvm/api"
)

// Entry is one line of the record.
type Entry = api.NetworkEntry

// MaxLine bounds a line in bytes, with its end. What is written stays far below
// it; a longer one was not written here.
const MaxLine = 128 << 10

// Bounds of what a guest may have chosen, in bytes before escaping.
const (
	maxName   = 255  // of a host: RFC 1035, section 2.3.4
	maxText   = 1024 // reasons
	maxWord   = 128  // methods, codes, ids, content types
	maxPath   = 2048
	maxArg    = 256
	maxArgs   = 16
	maxValues = 32 // addresses, secrets
)

// cutMark ends a text that was cut.
const cutMark = "..."

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	// A first byte of a longer rune may be left, without the rest.
	if r, n := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && n == 1 {
		s = s[:len(s)-1]
	}
	return s + cutMark
}

func cutAll(list []string, count, most int) []string {
	if list == nil {
		return nil
	}
	n := min(len(list), count)
	out := make([]string, 0, n+1)
	for _, s := range list[:n] {
		out = append(out, cut(s, most))
	}
	if n < len(list) {
		out = append(out, cutMark)
	}
	return out
}

// bounded returns an entry of bounded size that shares nothing with e.
func bounded(e Entry) Entry {
	for _, s := range []*string{&e.Rule, &e.Code, &e.Ask, &e.Proto, &e.Address, &e.Dialed} {
		*s = cut(*s, maxWord)
	}
	e.Kind, e.Verdict = api.NetworkEvent(cut(string(e.Kind), maxWord)), api.PolicyAction(cut(string(e.Verdict), maxWord))
	e.Host, e.Reason = cut(e.Host, maxName), cut(e.Reason, maxText)
	e.DurationMS = finite(e.DurationMS)
	e.Secrets = cutAll(e.Secrets, maxValues, maxWord)
	if p := e.Process; p != nil {
		e.Process = &api.NetworkProcess{PID: p.PID, Argv: cutAll(p.Argv, maxArgs, maxArg)}
	}
	if d := e.DNS; d != nil {
		e.DNS = &api.NetworkDNS{
			Type: cut(d.Type, maxWord), Result: cut(d.Result, maxWord),
			Addresses: cutAll(d.Addresses, maxValues, maxWord), Removed: cutAll(d.Removed, maxValues, maxWord),
		}
	}
	if e.HTTP != nil {
		h := *e.HTTP
		for _, s := range []*string{&h.Method, &h.Scheme, &h.Version, &h.RequestType, &h.ResponseType} {
			*s = cut(*s, maxWord)
		}
		h.Host, h.Path = cut(h.Host, maxName), cut(h.Path, maxPath)
		h.WaitMS = finite(h.WaitMS)
		e.HTTP = &h
	}
	return e
}

// finite makes a number one that JSON has.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// line returns an entry as a line without its end. What does not print is escaped:
// people look at the files with what they have.
func line(e Entry) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(bounded(e)); err != nil {
		return nil, err
	}
	return printable(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// printable escapes what does not print, which in JSON stands only within strings.
func printable(b []byte) []byte {
	if bytes.IndexFunc(b, unprintable) < 0 {
		return b
	}
	var out strings.Builder
	for _, r := range string(b) {
		if unprintable(r) {
			writeEscape(&out, r)
		} else {
			out.WriteRune(r)
		}
	}
	return []byte(out.String())
}

func unprintable(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }

// writeEscape writes a rune as JSON does: in UTF-16 (RFC 8259, section 7).
func writeEscape(out *strings.Builder, r rune) {
	if hi, lo := utf16.EncodeRune(r); hi != unicode.ReplacementChar {
		fmt.Fprintf(out, `\u%04x\u%04x`, hi, lo)
		return
	}
	fmt.Fprintf(out, `\u%04x`, r)
}
