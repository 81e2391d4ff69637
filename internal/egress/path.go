package egress

import (
	"fmt"
	"slices"
	"strings"
)

const (
	maxPattern = 1 << 10 // a path of a rule
	maxPath    = 8 << 10 // a path that is compared with one

	// maxReadings is more than honest paths have. What has more is made to
	// confuse, and costs time.
	maxReadings = 8
)

// pathPattern is a path of a rule. Without a star it means that path and all
// below it, with = in front that path alone; with stars the whole path: * within
// one part, ** across parts.
type pathPattern struct {
	text  string
	whole bool // text is all of the path, perhaps with stars
}

func parsePath(s string) (pathPattern, error) {
	s, exact := strings.CutPrefix(s, "=")
	switch {
	case exact && strings.Contains(s, "*"):
		return pathPattern{}, fmt.Errorf("path %q: with = it is one path, and a star means many; leave one of them out", "="+s)
	case !strings.HasPrefix(s, "/"):
		return pathPattern{}, fmt.Errorf("path %q: begin it with a slash", s)
	case len(s) > maxPattern:
		return pathPattern{}, fmt.Errorf("path %.40q...: at most %d characters", s, maxPattern)
	case strings.ContainsAny(s, "?#"):
		return pathPattern{}, fmt.Errorf("path %q: queries and fragments are not compared; leave them out", s)
	case strings.Contains(s, "***"):
		return pathPattern{}, fmt.Errorf("path %q: write * for one part, ** for any number", s)
	}
	if r := readings(strings.ReplaceAll(s, "*", "x")); len(r) != 1 {
		return pathPattern{}, fmt.Errorf("path %q: servers read it in several ways; leave out %%-escapes of / and \\, dots that go up, empty parts", s)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f {
			return pathPattern{}, fmt.Errorf("path %q: write character %q as it stands in no URL", s, rune(c))
		}
	}
	text, _ := unescape(s)
	if text != "/" && !exact {
		text = strings.TrimSuffix(text, "/")
	}
	return pathPattern{text, exact || strings.Contains(s, "*")}, nil
}

func (p pathPattern) match(path string) bool {
	if p.whole {
		return globMatch(p.text, path)
	}
	rest, ok := strings.CutPrefix(path, p.text)
	return ok && (rest == "" || rest[0] == '/' || p.text == "/")
}

// globMatch compares a whole path. It follows all places of the pattern at
// once, so its time is bounded by the product of the lengths whatever they hold.
func globMatch(pattern, path string) bool {
	at := make([]bool, len(pattern)+1) // places reached
	next := make([]bool, len(pattern)+1)
	at[0] = true
	skipStars(pattern, at)
	for j := range len(path) {
		clear(next)
		reached := false
		for i := range len(pattern) {
			if !at[i] {
				continue
			}
			switch {
			case pattern[i] != '*':
				if pattern[i] == path[j] {
					next[i+1], reached = true, true
				}
			case doubleStar(pattern, i) || path[j] != '/':
				next[i], reached = true, true
			}
		}
		if !reached {
			return false
		}
		at, next = next, at
		skipStars(pattern, at)
	}
	return at[len(pattern)]
}

// skipStars lets stars stand for nothing.
func skipStars(pattern string, at []bool) {
	for i := range len(pattern) {
		if at[i] && pattern[i] == '*' {
			if at[i+1] = true; doubleStar(pattern, i) {
				at[i+2] = true
			}
		}
	}
}

func doubleStar(pattern string, i int) bool { return strings.HasPrefix(pattern[i:], "**") }

// readings returns the paths that servers may make of one on the wire, without
// its query: escapes decoded once or twice, backslashes as slashes, empty parts
// merged, dot parts resolved, parameters cut off. One reading means that all
// agree. Nil means that none is sane, or that there are too many.
func readings(wire string) []string {
	wire, _, _ = strings.Cut(wire, "?")
	wire, _, _ = strings.Cut(wire, "#")
	plain, ok := unescape(wire)
	if !ok || len(wire) > maxPath || !strings.HasPrefix(plain, "/") {
		return nil
	}
	list := []string{plain}
	add := func(s string) {
		if !slices.Contains(list, s) && strings.HasPrefix(s, "/") {
			list = append(list, s)
		}
	}
	if twice, ok := unescape(plain); ok {
		add(twice)
	}
	// Each view is made of those before it, so that their mixtures are seen too.
	for _, view := range []func(string) string{decodeSlashes, backslashes, withoutParameters, mergeSlashes, resolveDots} {
		for _, s := range slices.Clone(list) {
			add(view(s))
		}
	}
	if len(list) > maxReadings {
		return nil
	}
	return list
}

// unescape decodes the escapes of a path, but not those of a slash: "/" within
// a part is for decodeSlashes. Control characters make a path insane.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, !hasControl(s)
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
			b.WriteByte('%') // an escape of nothing stays as it is
			continue
		}
		if c := byte(unhex(s[i+1])<<4 | unhex(s[i+2])); c != '/' {
			b.WriteByte(c)
		} else {
			b.WriteString("%2F")
		}
		i += 2
	}
	return b.String(), !hasControl(b.String())
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func decodeSlashes(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "%2F", "/"), "%2f", "/")
}

func backslashes(s string) string { return strings.ReplaceAll(s, `\`, "/") }

// withoutParameters cuts ";..." off each part, as Java servers do.
func withoutParameters(s string) string {
	if !strings.Contains(s, ";") {
		return s
	}
	parts := strings.Split(s, "/")
	for i, p := range parts {
		parts[i], _, _ = strings.Cut(p, ";")
	}
	return strings.Join(parts, "/")
}

func mergeSlashes(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

// resolveDots resolves "." and ".." (RFC 3986 section 5.2.4).
func resolveDots(s string) string {
	if !strings.Contains(s, "/.") {
		return s
	}
	parts := strings.Split(s, "/")[1:]
	var out []string
	for i, p := range parts {
		switch last := i == len(parts)-1; {
		case p == "." || p == "..":
			if p == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, p)
		}
	}
	return "/" + strings.Join(out, "/")
}

// matchPaths compares with all readings of a path: allowing wants that each
// matches, denying that any does.
func matchPaths(list []pathPattern, paths []string, opens bool) bool {
	if len(list) == 0 {
		return true
	}
	matches := func(path string) bool {
		return slices.ContainsFunc(list, func(p pathPattern) bool { return p.match(path) })
	}
	if opens {
		return len(paths) > 0 && !slices.ContainsFunc(paths, func(s string) bool { return !matches(s) })
	}
	return len(paths) == 0 || slices.ContainsFunc(paths, matches)
}
