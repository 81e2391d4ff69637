package guestmem

import (
	"bytes"
	"slices"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Options say how to capture. The zero value captures all private pages.
type Options struct {
	// Buffer is where the pages go, of Prepare, used once. Nil: Capture makes one,
	// and the machine waits for that; it ends with the Delta's Close.
	Buffer *Buffer
	// Since is of the Capture or Apply before. Only what differs from it is saved,
	// for a chain that goes on. Nil: the Delta is for an empty chain.
	Since *Seen
	// WantSeen asks for a Seen. It is free with Since; without, the machine stands
	// still half as long again.
	WantSeen bool
	// Spill is the path of a new file for what exceeds the Buffer's bound. WriteFile
	// makes it whole. Empty: more is an error of class Exhausted.
	Spill string
	// Compress makes the file smaller and WriteFile slower. What was spilled is not
	// compressed.
	Compress bool
}

// Delta is captured pages in memory. It is used by one goroutine, before its Buffer
// is closed.
type Delta struct {
	space
	buffer   *Buffer
	compress bool
	blocks   []block // in the order of chunks
}

// block is what a Delta has of a chunk.
type block struct {
	chunk  int
	data   pageSet // pages with content
	zero   pageSet // pages that are all zeros
	at     int64   // place of the content among all data
	stored int     // bytes of the content as it is stored
	inFile bool
}

// Pages is how many pages the Delta holds; those that are all zeros too.
func (d *Delta) Pages() (n int) {
	for _, b := range d.blocks {
		n += b.data.count() + b.zero.count()
	}
	return n
}

// Close closes the Delta's Buffer.
func (d *Delta) Close() { d.buffer.Close() }

// Capture copies the private pages of a paused machine, or what changed of them.
// The Seen is nil if it was not asked for. Class Unavailable where the process has
// ended or may not be traced.
func Capture(r vmm.Region, o Options) (*Delta, *Seen, error) {
	s, err := newSpace(r)
	if err != nil {
		return nil, nil, err
	}
	if o.Since != nil && len(o.Since.hashes) != s.pages {
		return nil, nil, api.Errorf(api.Invalid, "save memory: of %d pages, but %d were seen", s.pages, len(o.Since.hashes))
	}
	if o.Buffer != nil {
		return capture(s, o)
	}
	if o.Buffer, err = Prepare(r, o.Since); err != nil {
		return nil, nil, err
	}
	d, seen, err := capture(s, o)
	if err != nil {
		o.Buffer.Close()
	}
	return d, seen, err
}

func capture(s space, o Options) (*Delta, *Seen, error) {
	if !o.Buffer.used.CompareAndSwap(false, true) {
		return nil, nil, api.Errorf(api.Internal, "save memory: the buffer was used before")
	}
	m, err := s.pagemap()
	if err != nil {
		return nil, nil, err
	}
	defer m.Close()
	o.Buffer.spill.path = o.Spill
	c := capturing{pagemap: m, Options: o, blocks: make([]block, s.chunks())}
	if o.WantSeen || o.Since != nil {
		c.seen = o.Since.next(s.pages)
	}
	if err := s.eachChunk(c.take); err != nil {
		return nil, nil, err
	}
	d := &Delta{space: s, buffer: o.Buffer, compress: o.Compress}
	d.blocks = slices.DeleteFunc(c.blocks, func(b block) bool { return b.data.empty() && b.zero.empty() })
	if !o.WantSeen {
		c.seen = nil
	}
	return d, c.seen, nil
}

// capturing is a Capture under way.
type capturing struct {
	pagemap
	Options
	seen   *Seen
	blocks []block // one for each chunk; a goroutine writes only those of its chunks
}

// take captures one chunk.
func (c *capturing) take(chunk int, buf []byte) error {
	want, err := c.private(chunk)
	if err != nil {
		return err
	}
	// A page that the chain holds and that is not private any more was given back
	// (by a balloon, say): it is the base's again, which the chain must learn.
	want = want.or(c.Since.of(chunk))
	if want.empty() {
		return nil
	}
	pages := buf[:want.count()*pageSize]
	if err := c.read(chunk, want, pages); err != nil {
		return err
	}
	b := block{chunk: chunk}
	data := c.sort(&b, want, pages)
	if b.stored = len(data); b.stored > 0 {
		b.at, b.inFile, err = c.Buffer.put(data)
	}
	c.blocks[chunk] = b
	return err
}

// sort notes in b which of a chunk's pages are to be saved, and returns the content
// of those that have one, moved together at the beginning of pages.
func (c *capturing) sort(b *block, set pageSet, pages []byte) []byte {
	from, to := 0, 0
	for i := range set.pages() {
		page := pages[from : from+pageSize]
		from += pageSize
		if c.known(b.chunk*chunkPages+i, page) {
			continue
		}
		if allZero(page) {
			b.zero.add(i)
			continue
		}
		b.data.add(i)
		if to+pageSize != from {
			copy(pages[to:], page)
		}
		to += pageSize
	}
	return pages[:to]
}

// known notes a page as seen and reports whether the chain holds it as it is.
func (c *capturing) known(number int, page []byte) bool {
	if c.seen == nil {
		return false
	}
	h := c.seen.hash(page)
	c.seen.hashes[number] = h
	return c.Since != nil && c.Since.hashes[number] == h
}

// allZero compares b with itself one byte later, at the speed of memcmp.
func allZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }
