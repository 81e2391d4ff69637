package diff

import (
	"fmt"
	"strings"

	"github.com/aymanbagabas/go-udiff/lcs"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// Text is the change of one path for people to read.
type Text struct {
	Unified string // a unified diff; empty where lines have not changed
	Binary  bool   // it is no text, or too long to compare
}

// Unified tells a change line by line.
func Unified(c Change, open Open) (Text, error) {
	var sides [2][]byte
	for _, s := range []Side{Before, After} {
		b, err := c.content(s, open, maxText)
		if api.ClassOf(err) == api.Exhausted {
			return Text{Binary: true}, nil
		}
		if err != nil {
			return Text{}, err
		}
		sides[s] = b
	}
	if !isText(sides[Before]) || !isText(sides[After]) {
		return Text{Binary: true}, nil
	}
	h := hunks(string(sides[Before]), string(sides[After]))
	if h == "" {
		return Text{}, nil
	}
	return Text{Unified: labels(c.Path[1:], c.Before, c.After) + h}, nil
}

// labels are the two lines above the hunks.
func labels(name string, before, after File) string {
	return "--- " + label("a/"+name, before) + "\n+++ " + label("b/"+name, after) + "\n"
}

func label(name string, f File) string {
	if f.Type != guest.TypeFile && f.Type != guest.TypeSymlink {
		return "/dev/null"
	}
	q := quote(name)
	if q == name && strings.Contains(name, " ") {
		q += "\t" // ends a name with spaces
	}
	return q
}

// contextLines stand around each change.
const contextLines = 3

// hunks returns the changed parts of a text, and nothing where it is the same.
func hunks(before, after string) string {
	if before == after {
		return ""
	}
	h := hunker{a: lines(before), b: lines(after)}
	edits := lcs.DiffLines(h.a, h.b)
	for len(edits) > 0 {
		n := 1
		for n < len(edits) && edits[n].Start-edits[n-1].End <= 2*contextLines {
			n++
		}
		h.hunk(edits[:n])
		edits = edits[n:]
	}
	return h.out.String()
}

// lines cuts a text behind each end of line.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	all := strings.SplitAfter(s, "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return all
}

// hunker writes hunks.
type hunker struct {
	a, b []string
	out  strings.Builder
}

// hunk writes edits that are near each other.
func (h *hunker) hunk(edits []lcs.Diff) {
	first, last := edits[0], edits[len(edits)-1]
	lead := min(first.Start, contextLines)
	tail := min(len(h.a)-last.End, contextLines)
	fmt.Fprintf(&h.out, "@@ -%s +%s @@\n", span(first.Start-lead, last.End+tail), span(first.ReplStart-lead, last.ReplEnd+tail))
	at := first.Start - lead
	for _, e := range edits {
		h.write(' ', h.a[at:e.Start])
		h.write('-', h.a[e.Start:e.End])
		h.write('+', h.b[e.ReplStart:e.ReplEnd])
		at = e.End
	}
	h.write(' ', h.a[at:at+tail])
}

// span writes where lines stand: the first, counted from 1, and how many. None
// stand behind the line before them.
func span(from, to int) string {
	switch to - from {
	case 0:
		return fmt.Sprintf("%d,0", from)
	case 1:
		return fmt.Sprint(from + 1)
	}
	return fmt.Sprintf("%d,%d", from+1, to-from)
}

func (h *hunker) write(mark byte, lines []string) {
	for _, l := range lines {
		h.out.WriteByte(mark)
		h.out.WriteString(l)
		if !strings.HasSuffix(l, "\n") {
			h.out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}
