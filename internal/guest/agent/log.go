package agent

import (
	"sync"

	"github.com/smolvm/smolvm/internal/guest"
)

// outputLog keeps the end of a detached process's output, at most guest.LogLimit
// bytes, for those who attach. It never holds the process up.
type outputLog struct {
	mu      sync.Mutex
	changed sync.Cond
	pieces  []piece
	size    int
	next    int64 // position of the next byte to come
	over    bool
}

// piece is output of one kind in a row.
type piece struct {
	kind guest.Kind
	pos  int64
	data []byte
}

// pieceSize bounds a piece, so that dropping the oldest drops little.
const pieceSize = 16 << 10

func newOutputLog() *outputLog {
	l := &outputLog{}
	l.changed.L = &l.mu
	return l
}

// output adds output and drops the oldest beyond the limit.
func (l *outputLog) output(k guest.Kind, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		last := len(l.pieces) - 1
		if last < 0 || l.pieces[last].kind != k || len(l.pieces[last].data) == pieceSize {
			l.pieces = append(l.pieces, piece{kind: k, pos: l.next})
			last++
		}
		d := &l.pieces[last].data
		n := min(len(p), pieceSize-len(*d))
		*d = append(*d, p[:n]...)
		p = p[n:]
		l.size += n
		l.next += int64(n)
	}
	drop := 0
	// Many tiny pieces cost more than their bytes.
	for l.size > guest.LogLimit || len(l.pieces)-drop > maxPieces {
		l.size -= len(l.pieces[drop].data)
		drop++
	}
	if drop > 0 {
		l.pieces = append([]piece(nil), l.pieces[drop:]...)
	}
	l.changed.Broadcast()
}

// maxPieces bounds the pieces of a log: output that alternates between stdout and
// stderr makes short ones.
const maxPieces = 8 << 10

func (l *outputLog) flush() {}

// close says that no more output comes.
func (l *outputLog) close() { l.wake(true) }

// wake has readers look again.
func (l *outputLog) wake(over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = l.over || over
	l.changed.Broadcast()
}

// end returns the position behind what has come.
func (l *outputLog) end() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// read copies output from pos on into buf. It returns the position of what it
// copied: bytes may have been dropped meanwhile. n is 0 when there is none.
func (l *outputLog) read(pos int64, buf []byte) (k guest.Kind, at int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pieces {
		if pos < p.pos+int64(len(p.data)) {
			from := max(pos, p.pos)
			return p.kind, from, copy(buf, p.data[from-p.pos:])
		}
	}
	return 0, pos, 0
}

// wait waits for output from pos on; more is false when none comes or stop says
// not to wait.
func (l *outputLog) wait(pos int64, stop func() bool) (more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pos >= l.next {
		if l.over || stop() {
			return false
		}
		l.changed.Wait()
	}
	return true
}
