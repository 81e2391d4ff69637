package intercept

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
)

// Bounds of what pages repeat of a guest's or a server's words, in bytes.
const (
	maxHostShown = 256
	maxPathShown = 512
	maxWhyShown  = 2 << 10
)

// HeaderDenied is in all that is answered in a server's place. Its value is
// Answer.Code, or "upstream" where the server failed.
const HeaderDenied = "X-Smolvm-Denied"

// Denied returns a whole HTTP/1.1 response of status 403 that says what is
// denied and why, as Serve would send it, for a connection that then ends.
func Denied(r *Request, a Answer) []byte {
	body := page(http.StatusForbidden, r, a)
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", http.StatusForbidden, http.StatusText(http.StatusForbidden))
	h := http.Header{}
	pageHeader(h, a.Code, len(body))
	h.Set("Connection", "close")
	_ = h.Write(&b) // a buffer takes all
	b.WriteString("\r\n")
	if r.Method != http.MethodHead {
		b.WriteString(body)
	}
	return b.Bytes()
}

func pageHeader(h http.Header, code string, length int) {
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(length))
	h.Set("Cache-Control", "no-store")
	h.Set(HeaderDenied, clip(code, maxHostShown))
}

// page says what was not done, why, by which rule, and what helps.
func page(status int, r *Request, a Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "smolvm: %d %s\n\n%s %s", status, http.StatusText(status), clip(r.Method, maxHostShown), r.Scheme)
	fmt.Fprintf(&b, "://%s%s\n%s\n", clip(r.Host, maxHostShown), clip(r.Path, maxPathShown), clip(a.Why, maxWhyShown))
	if a.Rule != "" {
		fmt.Fprintf(&b, "Rule: %s\n", clip(a.Rule, maxHostShown))
	}
	for line := range strings.Lines(a.Help) {
		fmt.Fprintf(&b, "%s\n", clip(strings.TrimSuffix(line, "\n"), maxWhyShown))
	}
	return b.String()
}

// clip bounds a text and makes it one printable line.
func clip(s string, most int) string {
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if cut {
		s += "..."
	}
	return s
}

// answer sends a page of ours.
func (x *exchange) answer(status int, a Answer) {
	body := page(status, &x.Request, a)
	clear(x.Header())
	pageHeader(x.Header(), a.Code, len(body))
	x.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.Write([]byte(body)) // a guest that is gone is gone
	}
}

// refuse answers what is denied.
func (x *exchange) refuse(status int) { x.answer(status, x.Answer) }

// deny denies for a reason of our own, whatever Decide would say.
func (x *exchange) deny(status int, code, why string) {
	x.Answer = Answer{Code: code, Why: why}
	x.refuse(status)
}

// fail answers for a server that could not.
func (x *exchange) fail(err error) {
	status, why, help := explain(err, x.name)
	x.Err = clip(why, maxWhyShown)
	x.answer(status, Answer{Code: "upstream", Why: why, Help: help})
}
