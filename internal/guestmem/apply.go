package guestmem

import (
	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Apply brings memory that is the base's to what a chain of files saved, oldest
// first. Of each page only the newest version is read and written. The Seen for the
// next Capture is nil if it is not wanted. Class Invalid where a file is damaged or
// of another memory; the memory is then to be thrown away. The files are taken as
// authentic: see package seal.
func Apply(r vmm.Region, files []string, wantSeen bool) (*Seen, error) {
	s, err := newSpace(r)
	if err != nil {
		return nil, err
	}
	a := applying{space: s, versions: make([][]stored, s.chunks())}
	defer a.close()
	for _, path := range files {
		if err := a.add(path); err != nil {
			return nil, err
		}
	}
	if wantSeen {
		a.seen = newSeen(s.pages)
	}
	if a.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecodeAllCapLimit(true)); err != nil {
		return nil, api.Errorf(api.Internal, "read saved memory: %w", err)
	}
	if err := s.eachChunk(a.chunk); err != nil {
		return nil, err
	}
	return a.seen, nil
}

// applying is an Apply under way.
type applying struct {
	space
	files    []*saved
	versions [][]stored // of each chunk, oldest first
	seen     *Seen      // nil: not wanted
	dec      *zstd.Decoder
}

// stored is a block in a file.
type stored struct {
	*saved
	block
}

func (a *applying) add(path string) error {
	f, err := openSaved(path, a.pages)
	if err != nil {
		return err
	}
	a.files = append(a.files, f)
	for _, b := range f.blocks {
		a.versions[b.chunk] = append(a.versions[b.chunk], stored{f, b})
	}
	return nil
}

func (a *applying) close() {
	for _, f := range a.files {
		f.f.Close()
	}
	if a.dec != nil {
		a.dec.Close()
	}
}

// chunk writes the newest version of each page of a chunk.
func (a *applying) chunk(chunk int, buf []byte) error {
	var done pageSet
	versions := a.versions[chunk]
	for i := len(versions) - 1; i >= 0; i-- {
		v := versions[i]
		data, zero := v.data.without(done), v.zero.without(done)
		done = done.or(data).or(zero)
		if err := a.writeZeros(chunk, zero, buf); err != nil {
			return err
		}
		if data.empty() {
			continue
		}
		pages, err := v.content(v.block, a.dec, buf)
		if err != nil {
			return damaged(v.f.Name(), "%v", err)
		}
		if err := a.writePages(chunk, data, pick(pages, v.data, data)); err != nil {
			return err
		}
	}
	return nil
}

func (a *applying) writeZeros(chunk int, set pageSet, buf []byte) error {
	if set.empty() {
		return nil
	}
	pages := buf[:set.count()*pageSize]
	clear(pages)
	return a.writePages(chunk, set, pages)
}

func (a *applying) writePages(chunk int, set pageSet, pages []byte) error {
	if a.seen != nil {
		at := 0
		for i := range set.pages() {
			a.seen.hashes[chunk*chunkPages+i] = a.seen.hash(pages[at : at+pageSize])
			at += pageSize
		}
	}
	return a.write(chunk, set, pages)
}

// pick moves those of pages that are in want together. The pages are those in have.
func pick(pages []byte, have, want pageSet) []byte {
	if have == want {
		return pages
	}
	from, to := 0, 0
	for i := range have.pages() {
		if want.has(i) {
			copy(pages[to:to+pageSize], pages[from:])
			to += pageSize
		}
		from += pageSize
	}
	return pages[:to]
}
