package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/smolvm/smolvm"
)

// colour reports whether people want colours on standard output.
func (a *app) colour() bool { return a.OutTerm && os.Getenv("NO_COLOR") == "" }

// diffPrinter prints changes for people.
type diffPrinter struct {
	patch        bool
	term, colour bool // standard output is a terminal; and may have colours
}

// Colours, by what a line begins with.
const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	amber = "\x1b[33m"
	cyan  = "\x1b[36m"
	bold  = "\x1b[1m"
	plain = "\x1b[0m"
)

// changeMark is how a kind of change is shown.
type changeMark struct{ letter, colour string }

var changeMarks = map[string]changeMark{"added": {"A", green}, "changed": {"C", amber}, "deleted": {"D", red}}

func (p diffPrinter) printer(list []smolvm.Change) func(io.Writer) {
	return func(w io.Writer) {
		for _, c := range list {
			p.print(w, c)
		}
	}
}

func (p diffPrinter) print(w io.Writer, c smolvm.Change) {
	if p.patch && c.Patch != "" {
		p.printPatch(w, c.Patch)
		return
	}
	mark, ok := changeMarks[c.What]
	if !ok {
		mark = changeMark{letter: c.What}
	}
	line := clean(mark.letter) + " " + clean(c.Path)
	if c.Type == "dir" && !strings.HasSuffix(c.Path, "/") {
		line += "/"
	}
	if p.patch && c.Binary {
		line += fmt.Sprintf(" (binary, %s)", size(c.Size))
	}
	p.line(w, mark.colour, line)
}

// printPatch prints a patch as it is, so that it can be applied. On a terminal what
// does not print is shown as an escape: a guest wrote it.
func (p diffPrinter) printPatch(w io.Writer, text string) {
	if !p.term {
		io.WriteString(w, text)
		return
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		p.line(w, patchColour(line), escape(line, "\t"))
	}
}

func patchColour(line string) string {
	switch {
	case strings.HasPrefix(line, "+++ "), strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "diff "):
		return bold
	case strings.HasPrefix(line, "+"):
		return green
	case strings.HasPrefix(line, "-"):
		return red
	case strings.HasPrefix(line, "@@"):
		return cyan
	}
	return ""
}

func (p diffPrinter) line(w io.Writer, colour, text string) {
	if !p.colour || colour == "" {
		fmt.Fprintln(w, text)
		return
	}
	fmt.Fprintln(w, colour+text+plain)
}
