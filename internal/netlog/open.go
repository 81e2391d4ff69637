package netlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// Open goes on with the record in a directory, and makes it where there is none.
// The caller sees to it that nobody else has it open for writing. Where the last
// lines are not what the head tells, the record says so itself, in an entry of
// kind broken, and goes on. Class Unavailable where the files cannot be opened.
func Open(dir string, o Options) (*Writer, error) {
	w, err := open(dir, o.withDefaults())
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "open network record %q: %w", dir, err)
	}
	return w, nil
}

func open(dir string, o Options) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w := &Writer{dir: dir, o: o}
	why, err := w.resume()
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	if w.headF, err = os.OpenFile(headPath(dir), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	u.Add(func() { w.headF.Close() })
	if err := w.writeHead(w.head); err != nil {
		return nil, err
	}
	// What somebody has put behind it.
	if err := w.headF.Truncate(int64(len(w.sealed(w.head)))); err != nil {
		return nil, err
	}
	last := w.begins[len(w.begins)-1].file
	if w.f, err = os.OpenFile(file(dir, last), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	u.Add(func() { w.f.Close() })
	if err := w.f.Truncate(w.size); err != nil {
		return nil, err
	}
	if why != "" {
		w.Record(Entry{Kind: api.EventBroken, Reason: why})
	}
	u.Success()
	return w, nil
}

// resume finds where the record ends, and says why it cannot be believed.
func (w *Writer) resume() (why string, err error) {
	list, err := files(w.dir)
	if err != nil {
		return "", err
	}
	h, headErr := readHead(w.dir, w.o.Key)
	if len(list) == 0 && (errors.Is(headErr, os.ErrNotExist) || headErr == nil && h.Seq == 0) {
		w.head = head{Hash: first, First: 1, Prev: first, Next: first}
		w.begins = []begin{{1, 1, first}}
		return "", nil
	}
	last, err := w.survey(list)
	if err != nil {
		return "", err
	}
	switch {
	case headErr != nil:
		why, h = "the file head is missing or was altered", head{Hash: first, First: 1, Prev: first, Next: first}
	case last.seq == h.Seq && last.hash() == h.Hash:
	case last.seq == h.Seq+1 && last.hash() == h.Next: // we were killed before the head was written
		h.Seq, h.Hash = last.seq, last.hash()
	default:
		why = "the last lines were altered or cut"
	}
	if why != "" {
		h.Seq, h.Hash = max(h.Seq, last.seq), last.hash()
	}
	h.Next = first
	w.head = h
	for i := range w.begins {
		if w.begins[i].seq == 0 { // empty, or unreadable
			w.begins[i].seq, w.begins[i].prev = h.Seq+1, h.Hash
		}
	}
	return why, nil
}

// survey reads where the files begin, and returns the last line there is.
func (w *Writer) survey(list []int) (last link, err error) {
	if len(list) == 0 {
		list = []int{1}
	}
	for _, n := range list {
		b := begin{file: n}
		from, to, size, err := ends(file(w.dir, n))
		if err != nil {
			return last, err
		}
		b.seq, b.prev = from.seq, from.prev
		w.begins, w.size = append(w.begins, b), size
		if to.seq > 0 {
			last = to
		}
	}
	return last, nil
}

// link is a line as part of the chain.
type link struct {
	seq  uint64 // 0: there is no line, or it is none of ours
	prev string
	line []byte
}

func (l link) hash() string {
	if l.line == nil {
		return first
	}
	return hashOf(l.line)
}

// maxSeq is far beyond what one writes in a life, and far below an overflow.
const maxSeq = 1 << 53

func parseLink(line []byte) link {
	var l struct {
		Seq  uint64 `json:"seq"`
		Prev string `json:"prev"`
	}
	if json.Unmarshal(line, &l) != nil || l.Seq > maxSeq || len(l.Prev) != len(first) {
		return link{line: line}
	}
	return link{l.Seq, l.Prev, line}
}

// ends reads the first and the last line of a file, and the size without a line
// that has no end.
func ends(path string) (from, to link, size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return from, to, 0, nil
	}
	if err != nil {
		return from, to, 0, err
	}
	defer f.Close()
	b := make([]byte, MaxLine)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return from, to, 0, err
	}
	if i := bytes.IndexByte(b[:n], '\n'); i >= 0 {
		from = parseLink(bytes.Clone(b[:i]))
	}
	fi, err := f.Stat()
	if err != nil {
		return from, to, 0, err
	}
	// The last whole line and a part of one more lie within twice the bound.
	at := max(0, fi.Size()-2*MaxLine)
	b = make([]byte, fi.Size()-at)
	if n, err = f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return from, to, 0, err
	}
	end := bytes.LastIndexByte(b[:n], '\n')
	if end < 0 {
		return from, to, at, nil
	}
	start := bytes.LastIndexByte(b[:end], '\n') + 1
	return from, parseLink(bytes.Clone(b[start:end])), at + int64(end) + 1, nil
}
