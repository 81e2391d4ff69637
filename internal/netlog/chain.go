package netlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
)

// verifier walks along a chain.
type verifier struct {
	head   head
	headOK bool
	report Report

	last    link                 // the line with the highest number so far
	doubt   bool                 // last does not fit the line before it: one of the two was changed
	known   bool                 // last is known to be changed
	gaps    []api.NetworkProblem // what seems to be missing
	late    map[uint64]bool      // numbers that came after a higher one
	strange uint64               // lines since last that are no entries

	name string // of the file
	line int
}

func (v *verifier) say(p api.NetworkProblem) {
	if len(v.report.Problems) == maxProblems {
		v.report.More++
		return
	}
	v.report.Problems = append(v.report.Problems, p)
}

// here says a problem with entries that shows at the present line.
func (v *verifier) here(flaw api.NetworkFlaw, from, to uint64, text string) {
	v.say(api.NetworkProblem{Flaw: flaw, From: from, To: to, File: v.name, Line: v.line, Text: text})
}

func (v *verifier) changed(seq uint64) {
	v.here(api.FlawChanged, seq, seq, fmt.Sprintf("entry %d was changed", seq))
}

func (v *verifier) begin(headErr error) {
	v.report.Head = first
	if errors.Is(headErr, os.ErrNotExist) {
		v.say(api.NetworkProblem{Flaw: api.FlawHead, File: headName, Text: "the file head is missing, so a cut end cannot be told"})
	} else if headErr != nil {
		v.say(api.NetworkProblem{Flaw: api.FlawHead, File: headName, Text: "the file head was altered, or is another installation's, so a cut end cannot be told"})
	}
}

// file walks along the lines of a file. What has no end is no line yet.
func (v *verifier) file(f *os.File) error {
	v.name, v.line = filepath.Base(f.Name()), 0
	in := bufio.NewReaderSize(f, MaxLine)
	for {
		b, err := in.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		v.line++
		v.report.Entries++
		l := parseLink(bytes.TrimSuffix(bytes.Clone(b), []byte("\n")))
		if long || l.seq == 0 {
			v.strange++
			continue
		}
		v.walk(l)
	}
}

// walk takes the next line that has a number.
func (v *verifier) walk(l link) {
	v.explainStrange(l.seq - 1)
	e, isEntry := parse(l.line)
	broken := isEntry && e.Kind == api.EventBroken
	if broken {
		v.here(api.FlawBroken, l.seq, l.seq, fmt.Sprintf("entry %d says that the record before it was not whole: %s", l.seq, e.Reason))
	}
	if v.last.seq == 0 {
		v.first(l)
		return
	}
	fits := l.prev == v.last.hash()
	switch {
	case l.seq == v.last.seq+1:
		v.step(l, fits)
	case l.seq > v.last.seq && (broken || !fits):
		v.settle()
		v.gaps = append(v.gaps, api.NetworkProblem{Flaw: api.FlawMissing, From: v.last.seq + 1, To: l.seq - 1, File: v.name, Line: v.line})
		v.last, v.known = l, false
	case fits: // its place is right, its number is not
		l.seq = v.last.seq + 1
		v.step(l, true)
		v.found(l.seq)
	default:
		v.late[l.seq] = true
		v.here(api.FlawMoved, l.seq, l.seq, fmt.Sprintf("entry %d stands after entry %d", l.seq, v.last.seq))
		return
	}
	v.holdAgainstHead()
	if !isEntry && !v.known {
		v.found(l.seq)
	}
}

// step takes the line that follows last. Where two lines do not fit, either may be
// the one that was changed; the line after them tells.
func (v *verifier) step(l link, fits bool) {
	switch {
	case v.doubt && fits:
		v.changed(v.last.seq - 1)
	case v.doubt:
		v.changed(v.last.seq)
	}
	v.doubt = !v.doubt && !v.known && !fits
	v.known = false
	v.last = l
}

// found says that last was changed.
func (v *verifier) found(seq uint64) {
	v.changed(seq)
	v.doubt, v.known = false, true
}

// settle ends a doubt about two lines that nothing will resolve.
func (v *verifier) settle() {
	if v.doubt {
		v.here(api.FlawChanged, v.last.seq-1, v.last.seq, fmt.Sprintf("entry %d or %d was changed", v.last.seq-1, v.last.seq))
	}
	v.doubt = false
}

// first takes the first line there is.
func (v *verifier) first(l link) {
	v.report.First = l.seq
	v.last = l
	switch {
	case v.headOK && l.seq > v.head.First:
		v.here(api.FlawCut, v.head.First, l.seq-1, fmt.Sprintf("entries %d to %d at the beginning are gone", v.head.First, l.seq-1))
	case v.headOK && l.seq == v.head.First && l.prev != v.head.Prev, l.seq == 1 && l.prev != first:
		v.found(l.seq)
	}
	v.holdAgainstHead()
}

// holdAgainstHead compares last where the head tells its hash.
func (v *verifier) holdAgainstHead() {
	if !v.headOK || v.last.seq != v.head.Seq {
		return
	}
	intact := v.last.hash() == v.head.Hash
	if !intact && !v.known {
		v.found(v.last.seq)
	}
	if intact && v.doubt {
		v.changed(v.last.seq - 1)
		v.doubt = false
	}
}

// explainStrange says what the lines are that are no entries: where numbers up to
// the given one are wanting, these, otherwise nothing of ours.
func (v *verifier) explainStrange(to uint64) {
	n, from := v.strange, v.last.seq+1
	if v.last.seq == 0 && v.headOK {
		from = v.head.First
	}
	v.strange = 0
	switch {
	case n == 0:
	case from+n-1 != to:
		v.here(api.FlawAdded, 0, 0, fmt.Sprintf("%d lines before this one are no entries", n))
	default:
		v.settle()
		v.here(api.FlawChanged, from, to, fmt.Sprintf("entries %d to %d were changed and cannot be read", from, to))
		if v.report.First == 0 {
			v.report.First = from
		}
		v.last, v.known = link{seq: to}, true
	}
}

// end holds the end against the head: as it was before reading, and as it is now.
func (v *verifier) end(now head, ok bool) {
	v.explainStrange(v.head.Seq)
	v.settle()
	for _, g := range v.gaps {
		if !v.allLate(g.From, g.To) {
			g.Text = fmt.Sprintf("entries %d to %d are missing", g.From, g.To)
			v.say(g)
		}
	}
	last := v.last
	if v.headOK && last.seq < v.head.Seq {
		v.here(api.FlawCut, last.seq+1, v.head.Seq, fmt.Sprintf("entries %d to %d at the end are gone", last.seq+1, v.head.Seq))
	}
	if ok && (last.seq > now.Seq+1 || last.seq == now.Seq+1 && last.hash() != now.Next) {
		v.here(api.FlawAdded, now.Seq+1, last.seq, fmt.Sprintf("entries %d to %d behind the end are not smolvm's", now.Seq+1, last.seq))
	}
	v.report.Last, v.report.Head = last.seq, last.hash()
}

// allLate reports whether all of a range stands elsewhere.
func (v *verifier) allLate(from, to uint64) bool {
	if to-from >= uint64(len(v.late)) {
		return false
	}
	for n := from; n <= to; n++ {
		if !v.late[n] {
			return false
		}
	}
	return true
}
