package netlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

// Defaults of Options: the record of one sandbox takes at most 64 MiB.
const (
	DefaultFileBytes = 8 << 20
	DefaultFiles     = 8
)

// Options says how a record is written. The zero value works.
type Options struct {
	Key       seal.Key         // authenticates the head
	FileBytes int64            // of a file before the next is begun; zero: DefaultFileBytes
	Files     int              // that are kept, at least 2; zero: DefaultFiles
	Now       func() time.Time // for entries without a time; nil: time.Now
}

func (o Options) withDefaults() Options {
	if o.FileBytes <= 0 {
		o.FileBytes = DefaultFileBytes
	}
	if o.Files == 0 {
		o.Files = DefaultFiles
	}
	o.Files = max(o.Files, 2)
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Writer adds entries to a record. It may be used from many goroutines.
type Writer struct {
	dir string
	o   Options

	mu     sync.Mutex
	closed bool
	head   head
	headF  *os.File
	f      *os.File // the last file of lines
	size   int64    // of f
	begins []begin  // of the files that are kept, the last is f
	counts Counts
	lost   uint64 // entries that could not be written since the last that could
	err    error  // why
}

// begin says where a file of lines begins.
type begin struct {
	file int
	seq  uint64
	prev string
}

// Record adds an entry, to which it gives number, hash and, where it has none,
// time. When it returns the entry is in the file, also for who kills the process; a
// power cut takes back what the kernel has not written yet, and Verify then says
// that the end was cut. It takes microseconds. Where the disk takes no more, entries are counted,
// and the count is the next entry that can be written. After Close it does nothing.
func (w *Writer) Record(e Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.counts.add(e)
	if w.lost > 0 {
		note := Entry{Kind: api.EventLost, Count: w.lost, Reason: fmt.Sprint(w.err)}
		if err := w.add(note); err != nil {
			w.lost++
			return
		}
		w.lost, w.err = 0, nil
	}
	if err := w.add(e); err != nil {
		w.lost, w.err = w.lost+1, err
		slog.Warn("write network record", "err", err)
	}
}

// add writes an entry. After an error all is as it was before.
func (w *Writer) add(e Entry) error {
	if e.Time.IsZero() {
		e.Time = w.o.Now()
	}
	e.Time = e.Time.UTC()
	if w.size >= w.o.FileBytes {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	e.Seq, e.Prev = w.head.Seq+1, w.head.Hash
	b, err := line(e)
	if err != nil {
		return err
	}
	before, h := w.head, w.head
	h.Next = hashOf(b)
	if err := w.writeHead(h); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(append(b, '\n'), w.size); err != nil {
		return w.takeBack(before, err)
	}
	h.Seq, h.Hash, h.Next = e.Seq, h.Next, first
	if err := w.writeHead(h); err != nil {
		return w.takeBack(before, err)
	}
	w.size += int64(len(b)) + 1
	return nil
}

// takeBack makes the record what it was before an entry that could not be written.
// What fails here too, the next entry writes over.
func (w *Writer) takeBack(h head, err error) error {
	return errors.Join(err, w.f.Truncate(w.size), w.writeHead(h))
}

// writeHead replaces the head in place: a new file each time would cost more than
// the entry. It never gets shorter, so it is never half old.
func (w *Writer) writeHead(h head) error {
	w.head = h
	_, err := w.headF.WriteAt(w.sealed(h), 0)
	return err
}

func (w *Writer) sealed(h head) []byte {
	doc, err := json.Marshal(h)
	if err != nil {
		panic(err) // numbers and text
	}
	return w.o.Key.Sign(doc)
}

// rotate begins a new file and removes the oldest where there are too many.
func (w *Writer) rotate() error {
	n := w.begins[len(w.begins)-1].file + 1
	f, err := os.OpenFile(file(w.dir, n), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.f.Close()
	w.f, w.size = f, 0
	w.begins = append(w.begins, begin{n, w.head.Seq + 1, w.head.Hash})
	return w.prune()
}

func (w *Writer) prune() error {
	for len(w.begins) > w.o.Files {
		h := w.head
		h.First, h.Prev = w.begins[1].seq, w.begins[1].prev
		// The head first: who reads meanwhile finds more than he needs, not less.
		if err := w.writeHead(h); err != nil {
			return err
		}
		if err := os.Remove(file(w.dir, w.begins[0].file)); err != nil && !os.IsNotExist(err) {
			return err
		}
		w.begins = slices.Delete(w.begins, 0, 1)
	}
	return nil
}

// Counts says what was recorded since Open.
type Counts struct {
	Questions       uint64 // for names
	Allowed, Denied uint64 // flows; denied HTTP requests count too
}

func (c *Counts) add(e Entry) {
	switch {
	case e.Kind == api.EventDNS:
		c.Questions++
	case e.Kind == api.EventFlow && e.Verdict == api.PolicyAllow:
		c.Allowed++
	case (e.Kind == api.EventFlow || e.Kind == api.EventHTTP) && e.Verdict == api.PolicyDeny:
		c.Denied++
	}
}

// Counts returns what was recorded since Open.
func (w *Writer) Counts() Counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

// Close ends the record for now; Open goes on with it. A second call does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	return errors.Join(w.f.Close(), w.headF.Close())
}
