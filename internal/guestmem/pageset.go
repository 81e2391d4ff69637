package guestmem

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"os"

	"github.com/smolvm/smolvm/api"
)

// pageSet is a set of a chunk's pages.
type pageSet [chunkPages / 64]uint64

func (s *pageSet) add(i int)     { s[i/64] |= 1 << (i % 64) }
func (s pageSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }
func (s pageSet) empty() bool    { return s == pageSet{} }

func (s pageSet) count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

func (s pageSet) or(t pageSet) pageSet {
	for i := range s {
		s[i] |= t[i]
	}
	return s
}

func (s pageSet) and(t pageSet) pageSet {
	for i := range s {
		s[i] &= t[i]
	}
	return s
}

func (s pageSet) without(t pageSet) pageSet {
	for i := range s {
		s[i] &^= t[i]
	}
	return s
}

// end is one more than the last page.
func (s pageSet) end() int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != 0 {
			return 64*i + bits.Len64(s[i])
		}
	}
	return 0
}

// pages are the set's pages in order.
func (s pageSet) pages() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(64*i + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// runs are the set's longest runs of neighbours: the first page and the number.
func (s pageSet) runs() iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		first, n := 0, 0
		for i := range s.pages() {
			if n > 0 && i == first+n {
				n++
				continue
			}
			if n > 0 && !yield(first, n) {
				return
			}
			first, n = i, 1
		}
		if n > 0 {
			yield(first, n)
		}
	}
}

// Bits of an entry of /proc/PID/pagemap, see proc_pid_pagemap(5).
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61 // or shared
	entrySize   = 8
)

// pagemap tells which pages of a space are private.
type pagemap struct {
	space
	f *os.File
}

func (s space) pagemap() (pagemap, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", s.PID))
	if err != nil {
		return pagemap{}, api.Errorf(api.Unavailable, "look at the guest memory of process %d: %w", s.PID, err)
	}
	return pagemap{s, f}, nil
}

func (m pagemap) Close() error { return m.f.Close() }

// private returns the pages of a chunk that the process has for itself alone.
func (m pagemap) private(chunk int) (set pageSet, err error) {
	var buf [chunkPages * entrySize]byte
	b := buf[:m.length(chunk)*entrySize]
	first := int64(m.Addr)/int64(pageSize) + int64(chunk)*chunkPages
	if _, err := m.f.ReadAt(b, first*entrySize); err != nil {
		return set, api.Errorf(api.Unavailable, "look at the guest memory of process %d: %w", m.PID, err)
	}
	for i := range len(b) / entrySize {
		if isPrivate(binary.NativeEndian.Uint64(b[i*entrySize:])) {
			set.add(i)
		}
	}
	return set, nil
}

func isPrivate(entry uint64) bool {
	return entry&(pagePresent|pageSwapped) != 0 && entry&pageOfFile == 0
}
