// Package guestmem saves the memory of a paused machine as what differs from the
// file behind it, and brings another machine's memory to that again.
//
//	buf, err := guestmem.Prepare(region, nil) // while the guest still runs
//	defer buf.Close()
//	delta, seen, err := guestmem.Capture(region, guestmem.Options{Buffer: buf}) // while it stands
//	err = delta.WriteFile(path)                                                // while it runs again
//	...
//	_, err = guestmem.Apply(other, []string{path}, false)
//
// Guest memory is a private mapping of a file, the base: the kernel gives the VMM
// its own copy of each page that the guest writes. Only these private pages are
// saved. A chain of files on the same base is read oldest first: the newest version
// of a page counts.
//
// A [Seen] remembers a hash of each page that the chain holds. With it the next
// Capture saves only pages that changed since, because not every host's kernel
// can tell which were written (soft-dirty bits are an option of its build).
package guestmem

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// chunkPages is how many pages are handled at once. Half a MiB of 4 KiB pages stays
// in a processor's own cache between being read, hashed and copied.
const chunkPages = 128

// maxMemory is the largest guest memory, in bytes; more is a mistake.
const maxMemory = 1 << 40

// pageSize is the size of the host's pages, which are what is shared or private.
var pageSize = os.Getpagesize()

// space is the address space of the process that holds a machine's memory.
type space struct {
	vmm.Region
	pages int // of guest memory
}

func newSpace(r vmm.Region) (space, error) {
	page := int64(pageSize)
	if r.PID <= 0 || r.Addr%uint64(page) != 0 || r.Size <= 0 || r.Size%page != 0 || r.Size > maxMemory {
		return space{}, api.Errorf(api.Invalid, "%d bytes at %#x of process %d are no guest memory", r.Size, r.Addr, r.PID)
	}
	return space{r, int(r.Size / page)}, nil
}

// chunks is the number of chunks; the last may be shorter.
func (s space) chunks() int { return (s.pages + chunkPages - 1) / chunkPages }

// length is the number of pages of a chunk.
func (s space) length(chunk int) int { return min(chunkPages, s.pages-chunk*chunkPages) }

// read copies a chunk's pages in set from the process into buf, one after another.
func (s space) read(chunk int, set pageSet, buf []byte) error {
	remote := s.vectors(chunk, set)
	n, err := unix.ProcessVMReadv(s.PID, []unix.Iovec{vector(buf)}, remote, 0)
	return s.whole("read", n, len(buf), err)
}

// write copies local into the chunk's pages in set.
func (s space) write(chunk int, set pageSet, local []byte) error {
	remote := s.vectors(chunk, set)
	n, err := unix.ProcessVMWritev(s.PID, []unix.Iovec{vector(local)}, remote, 0)
	return s.whole("write", n, len(local), err)
}

// whole is the error of a copy of n bytes that should have been want.
func (s space) whole(act string, n, want int, err error) error {
	if err == nil && n != want {
		err = errors.New("only a part of it is mapped")
	}
	if err != nil {
		return api.Errorf(api.Unavailable, "%s the guest memory of process %d: %w", act, s.PID, err)
	}
	return nil
}

// vectors are the places of a chunk's pages in set. They are at most half the
// pages of a chunk, well below the kernel's limit of 1024.
func (s space) vectors(chunk int, set pageSet) []unix.RemoteIovec {
	list := make([]unix.RemoteIovec, 0, chunkPages/2)
	at := s.Addr + uint64(chunk*chunkPages*pageSize)
	for first, n := range set.runs() {
		list = append(list, unix.RemoteIovec{Base: uintptr(at) + uintptr(first*pageSize), Len: n * pageSize})
	}
	return list
}

func vector(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// claim is how many chunks a goroutine takes at once: those of one page table, with
// pages of 4 KiB. Two goroutines would fight for its lock.
const claim = 4

// eachChunk calls f for all chunks, on two goroutines: more would take processors
// from other machines, and two come close to what the host's memory can give.
// Each goroutine has a buffer of two chunks.
func (s space) eachChunk(f func(chunk int, buf []byte) error) error {
	var group errgroup.Group
	var next atomic.Int64
	for range min(2, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			buf := make([]byte, 2*chunkPages*pageSize)
			for {
				end := int(next.Add(claim))
				if end-claim >= s.chunks() {
					return nil
				}
				for chunk := end - claim; chunk < min(end, s.chunks()); chunk++ {
					if err := f(chunk, buf); err != nil {
						next.Store(int64(s.chunks())) // the other need not go on
						return err
					}
				}
			}
		})
	}
	return group.Wait()
}

// Seen remembers the pages that a chain of deltas holds, by a hash of each; about 8
// bytes of memory for a page of the guest. It means nothing to another process.
type Seen struct {
	seed   maphash.Seed
	hashes []uint64 // of a page; 0: the page is the base's
}

func newSeen(pages int) *Seen {
	return &Seen{maphash.MakeSeed(), make([]uint64, pages)}
}

// next is an empty Seen whose hashes can be compared with those of s, which may be nil.
func (s *Seen) next(pages int) *Seen {
	n := newSeen(pages)
	if s != nil {
		n.seed = s.seed
	}
	return n
}

// hash never returns 0.
func (s *Seen) hash(page []byte) uint64 { return max(1, maphash.Bytes(s.seed, page)) }

// of returns the pages of a chunk that the chain holds.
func (s *Seen) of(chunk int) (set pageSet) {
	if s == nil {
		return set
	}
	first := chunk * chunkPages
	for i, h := range s.hashes[first:min(first+chunkPages, len(s.hashes))] {
		if h != 0 {
			set.add(i)
		}
	}
	return set
}

// BaseFile makes the file behind a machine's memory of mib MiB: all zeros, and
// taking no space. The path must not exist; after an error it does not.
func BaseFile(path string, mib int) error {
	if mib <= 0 || mib > maxMemory>>20 {
		return api.Errorf(api.Invalid, "make memory file: %d MiB are not between 1 and %d", mib, maxMemory>>20)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return api.Errorf(api.Unavailable, "make memory file: %w", err)
	}
	if err := errors.Join(f.Truncate(int64(mib)<<20), f.Close()); err != nil {
		return api.Errorf(api.Exhausted, "make memory file: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

func damaged(path, format string, args ...any) error {
	return api.Errorf(api.Invalid, "read saved memory %q: %s", path, fmt.Sprintf(format, args...))
}
