package guestmem

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// maxBuffer bounds the memory of a Buffer. A machine that has written more waits
// for a part of it to be written to the file. It is twice what a machine with a
// browser writes, and many machines may be saved at the same time.
const maxBuffer = 512 << 20

// Buffer is where pages are copied while the machine stands still. Its memory is
// outside of Go's heap and given back by Close.
type Buffer struct {
	mem   []byte
	end   atomic.Int64 // bytes handed out, also beyond mem
	used  atomic.Bool  // also: closed
	spill spill
	close sync.Once
}

// Prepare makes a Buffer for the memory of a machine that still runs, and lets the
// kernel back it with memory: while the machine stands still that would take longer
// than the copying. With since, few pages are expected to change, and memory comes
// as it is needed.
func Prepare(r vmm.Region, since *Seen) (*Buffer, error) {
	s, err := newSpace(r)
	if err != nil {
		return nil, err
	}
	size := min(r.Size, maxBuffer)
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, api.Errorf(api.Exhausted, "find memory to save a machine: %w", err)
	}
	b := &Buffer{mem: mem}
	// Both are only faster: a kernel that does not know them gives memory at the
	// first touch of each page.
	unix.Madvise(mem, unix.MADV_HUGEPAGE)
	if since == nil {
		n, err := s.countPrivate()
		if err != nil {
			b.Close()
			return nil, err
		}
		if n = min(n*pageSize, len(mem)); n > 0 {
			unix.Madvise(mem[:n], unix.MADV_POPULATE_WRITE)
		}
	}
	return b, nil
}

// Close gives the memory back, and removes a file that was begun and not finished.
// A Delta in the Buffer ends with it.
func (b *Buffer) Close() {
	b.close.Do(func() {
		b.used.Store(true)
		unix.Munmap(b.mem)
		b.mem = nil
		b.spill.abandon()
	})
}

// countPrivate is the number of private pages at the moment.
func (s space) countPrivate() (n int, err error) {
	m, err := s.pagemap()
	if err != nil {
		return 0, err
	}
	defer m.Close()
	for chunk := range s.chunks() {
		set, err := m.private(chunk)
		if err != nil {
			return 0, err
		}
		n += set.count()
	}
	return n, nil
}

// put stores data and returns where among all data it is. What does not fit into
// memory goes to the file at once.
func (b *Buffer) put(data []byte) (at int64, inFile bool, err error) {
	end := b.end.Add(int64(len(data)))
	at = end - int64(len(data))
	if end <= int64(len(b.mem)) {
		copy(b.mem[at:], data)
		return at, false, nil
	}
	return at, true, b.spill.write(data, at)
}

// spill is a file that takes what has no place in memory.
type spill struct {
	path string
	mu   sync.Mutex
	f    *os.File // nil until the first write
}

func (s *spill) write(data []byte, at int64) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, headerSize+at); err != nil {
		return api.Errorf(api.Exhausted, "save memory: %w", err)
	}
	return nil
}

func (s *spill) open() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f != nil {
		return s.f, nil
	}
	if s.path == "" {
		return nil, api.Errorf(api.Exhausted, "save memory: more than %d MiB differ, and no file is named for the rest", maxBuffer>>20)
	}
	var err error
	if s.f, err = os.OpenFile(s.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, api.Errorf(api.Unavailable, "save memory: %w", err)
	}
	return s.f, nil
}

// take hands the open file to somebody who finishes it, if there is one.
func (s *spill) take() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.f
	s.f = nil
	return f
}

func (s *spill) abandon() {
	if f := s.take(); f != nil {
		f.Close()
		os.Remove(s.path)
	}
}
