package guestmem

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/api"
)

// The file of a Delta, version 1; all numbers are little endian:
//
//	header   magic, version, page size, pages of the guest; zeros to headerSize
//	data     the contents of the blocks, in any order
//	table    an entry for each block, in the order of chunks
//	footer   place of the table (8 bytes), entries (8), end mark (8)
//
// An entry is the chunk's number (8 bytes), the place of its content in the data
// (8), the bytes of it as stored (8), and two bit sets of its pages: those with
// content and those that are all zeros. The content is the pages one after another;
// stored in fewer bytes, it is a zstd frame of them.
const (
	magic   = "smolvmem"
	endMark = "memended"
	version = 1

	headerSize = 4096 // so that the data is aligned for the page cache
	footerSize = 24
	tableEntry = 24 + 2*chunkPages/8
)

var le = binary.LittleEndian

var errShort = errors.New("it is cut off")

func header(pages int) []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], uint32(pageSize))
	le.PutUint64(b[16:], uint64(pages))
	return b
}

// appendTo appends the table's entry of b.
func (b block) appendTo(out []byte) []byte {
	out = le.AppendUint64(out, uint64(b.chunk))
	out = le.AppendUint64(out, uint64(b.at))
	out = le.AppendUint64(out, uint64(b.stored))
	for _, w := range append(b.data[:], b.zero[:]...) {
		out = le.AppendUint64(out, w)
	}
	return out
}

// parseBlock reads an entry of the table.
func parseBlock(e []byte) (b block, chunk, at, stored uint64) {
	for i := range b.data {
		b.data[i] = le.Uint64(e[24+8*i:])
		b.zero[i] = le.Uint64(e[24+8*(len(b.data)+i):])
	}
	return b, le.Uint64(e), le.Uint64(e[8:]), le.Uint64(e[16:])
}

// WriteFile writes the Delta to a new file and may be called once. It does not wait
// for the disk. After an error the file does not exist. Class Exhausted where the
// disk is full.
func (d *Delta) WriteFile(path string) error {
	f, err := d.open(path)
	if err != nil {
		return api.Errorf(api.Unavailable, "save memory: %w", err)
	}
	if err := errors.Join(d.write(f), f.Close()); err != nil {
		return api.Errorf(api.Exhausted, "save memory: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// open makes the file, which is there already if some of the data is in it.
func (d *Delta) open(path string) (*os.File, error) {
	f := d.buffer.spill.take()
	if f == nil {
		return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	}
	if f.Name() == path {
		return f, nil
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

func (d *Delta) write(f *os.File) error {
	if _, err := f.WriteAt(header(d.pages), 0); err != nil {
		return err
	}
	write := d.writePlain
	if d.compress {
		write = d.writeCompressed
	}
	if err := write(f); err != nil {
		return err
	}
	end := int64(0) // of the data
	table := make([]byte, 0, len(d.blocks)*tableEntry+footerSize)
	for _, b := range d.blocks {
		table = b.appendTo(table)
		end = max(end, b.at+int64(b.stored))
	}
	table = le.AppendUint64(table, uint64(headerSize+end))
	table = le.AppendUint64(table, uint64(len(d.blocks)))
	table = append(table, endMark...)
	_, err := f.WriteAt(table, headerSize+end)
	return err
}

// writePlain writes the buffer as it is.
func (d *Delta) writePlain(f *os.File) error {
	end := int64(0)
	for _, b := range d.blocks {
		if !b.inFile {
			end = max(end, b.at+int64(b.stored))
		}
	}
	_, err := f.WriteAt(d.buffer.mem[:end], headerSize)
	return err
}

// writeCompressed gives the blocks in the buffer new places. A block never grows,
// so they stay before those that are in the file already.
func (d *Delta) writeCompressed(f *os.File) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithEncoderCRC(false)) // what is altered is found by package seal
	if err != nil {
		return err
	}
	defer enc.Close()
	var group errgroup.Group
	var next, place atomic.Int64
	for range 2 {
		group.Go(func() error {
			var buf []byte
			for i := next.Add(1) - 1; i < int64(len(d.blocks)); i = next.Add(1) - 1 {
				b := &d.blocks[i]
				if b.inFile || b.stored == 0 {
					continue
				}
				content := d.buffer.mem[b.at:][:b.stored]
				if buf = enc.EncodeAll(content, buf[:0]); len(buf) < len(content) {
					content = buf
				}
				b.stored = len(content)
				b.at = place.Add(int64(b.stored)) - int64(b.stored)
				if _, err := f.WriteAt(content, headerSize+b.at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// saved is the file of a Delta, open.
type saved struct {
	f      *os.File
	pages  int
	blocks []block
}

// openSaved reads the header and the table of a file with the memory of a guest of
// so many pages. Nothing that it returns leads outside of the file or of that memory.
func openSaved(path string, pages int) (*saved, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "read saved memory: %w", err)
	}
	s := &saved{f: f, pages: pages}
	if err := s.load(); err != nil {
		f.Close()
		return nil, damaged(path, "%v", err)
	}
	return s, nil
}

func (s *saved) load() error {
	fi, err := s.f.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if !fi.Mode().IsRegular() || size < headerSize+footerSize {
		return errShort
	}
	var head [24]byte
	var foot [footerSize]byte
	_, err1 := s.f.ReadAt(head[:], 0)
	_, err2 := s.f.ReadAt(foot[:], size-footerSize)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	switch want := header(s.pages); {
	case string(head[:8]) != magic:
		return errors.New("it is no saved memory")
	case string(foot[16:]) != endMark:
		return errShort
	case string(head[:]) != string(want[:len(head)]):
		return errors.New("it is of another version, page size or size of memory")
	}
	table, entries := le.Uint64(foot[:]), le.Uint64(foot[8:])
	chunks := uint64(space{pages: s.pages}.chunks())
	if entries > chunks || table < headerSize || table > uint64(size) || uint64(size)-table != entries*tableEntry+footerSize {
		return errors.New("its table is damaged")
	}
	return s.loadTable(int64(table), int(entries))
}

func (s *saved) loadTable(at int64, entries int) error {
	table := make([]byte, entries*tableEntry)
	if _, err := s.f.ReadAt(table, at); err != nil {
		return err
	}
	s.blocks = make([]block, 0, entries)
	last := -1
	for ; len(table) > 0; table = table[tableEntry:] {
		b, ok := s.check(table[:tableEntry], last, uint64(at-headerSize))
		if !ok {
			return errors.New("its table is damaged")
		}
		last = b.chunk
		s.blocks = append(s.blocks, b)
	}
	return nil
}

// check reads an entry of the table, which comes after that of the chunk last, in a
// file with so many bytes of data.
func (s *saved) check(entry []byte, last int, data uint64) (block, bool) {
	sp := space{pages: s.pages}
	b, chunk, at, stored := parseBlock(entry)
	if chunk >= uint64(sp.chunks()) || int(chunk) <= last || at > data || stored > data-at {
		return b, false
	}
	b.chunk, b.at, b.stored = int(chunk), int64(at), int(stored)
	length, full := sp.length(b.chunk), b.data.count()*pageSize
	ok := b.data.end() <= length && b.zero.end() <= length && b.data.and(b.zero).empty() &&
		b.stored <= full && (b.stored > 0) == (full > 0)
	return b, ok
}

// content reads a block's pages into buf, which has room for two chunks.
func (s *saved) content(b block, dec *zstd.Decoder, buf []byte) ([]byte, error) {
	full := b.data.count() * pageSize
	if b.stored == full {
		_, err := s.f.ReadAt(buf[:full], headerSize+b.at)
		return buf[:full], noEOF(err)
	}
	packed := buf[len(buf)/2:][:b.stored]
	if _, err := s.f.ReadAt(packed, headerSize+b.at); err != nil {
		return nil, noEOF(err)
	}
	out, err := dec.DecodeAll(packed, buf[:0:full])
	if err == nil && len(out) != full {
		err = errors.New("a block has the wrong length")
	}
	return out, err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errShort
	}
	return err
}
