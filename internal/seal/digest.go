package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

const (
	// chunk is what is hashed on its own: large enough that the table of chunks is
	// small, small enough that all processors have work with small files too.
	chunk = 1 << 20

	// block is what is read at once: it stays in a processor's own cache until it
	// is hashed.
	block = 128 << 10

	digestDomain = "smolvm file digest 1\x00"
)

// Digest returns a SHA-256 over a file: over its size and over the number and the
// hash of each chunk that is not all zeros. Zeros count the same whether they are
// written or a hole, and holes take no time. The file must not be written
// meanwhile. Class Unavailable where it cannot be read.
func Digest(path string) ([sha256.Size]byte, error) {
	sum, err := digest(path)
	if err != nil {
		return sum, api.Errorf(api.Unavailable, "hash %q: %w", path, err)
	}
	return sum, nil
}

func digest(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return sum, err
	}
	if !fi.Mode().IsRegular() {
		return sum, errors.New("it is not a regular file")
	}
	leaves, err := dataChunks(f, fi.Size())
	if err != nil {
		return sum, err
	}
	if err := hashAll(f, fi.Size(), leaves); err != nil {
		return sum, err
	}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64([]byte(digestDomain), uint64(fi.Size())))
	for _, l := range leaves {
		if !l.zero {
			h.Write(append(binary.BigEndian.AppendUint64(nil, uint64(l.index)), l.sum[:]...))
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

// leaf is a chunk that may hold data.
type leaf struct {
	index int64
	zero  bool
	sum   [sha256.Size]byte
}

// dataChunks lists the chunks that are not wholly in holes.
func dataChunks(f *os.File, size int64) ([]leaf, error) {
	var leaves []leaf
	next := int64(0) // chunk
	for next*chunk < size {
		start, err := unix.Seek(int(f.Fd()), next*chunk, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only holes from here on
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		for next = max(next, start/chunk); next*chunk < min(end, size); next++ {
			leaves = append(leaves, leaf{index: next})
		}
	}
	return leaves, nil
}

// hashAll fills in the leaves, on all processors.
func hashAll(f *os.File, size int64, leaves []leaf) error {
	var group errgroup.Group
	var taken atomic.Int64
	for range min(runtime.GOMAXPROCS(0), len(leaves)) {
		group.Go(func() error {
			buf := make([]byte, block)
			for {
				i := taken.Add(1) - 1
				if i >= int64(len(leaves)) {
					return nil
				}
				if err := leaves[i].hash(f, size, buf); err != nil {
					taken.Store(int64(len(leaves))) // the others need not go on
					return err
				}
			}
		})
	}
	return group.Wait()
}

// hash reads the leaf's chunk of a file of size bytes by way of buf.
func (l *leaf) hash(f *os.File, size int64, buf []byte) error {
	h := sha256.New()
	l.zero = true
	end := min((l.index+1)*chunk, size)
	for at := l.index * chunk; at < end; {
		b := buf[:min(int64(len(buf)), end-at)]
		if _, err := f.ReadAt(b, at); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // it was cut while we read
			}
			return err
		}
		l.zero = l.zero && allZero(b)
		h.Write(b)
		at += int64(len(b))
	}
	h.Sum(l.sum[:0])
	return nil
}

// allZero compares b with itself one byte later, at the speed of memcmp.
func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
