package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// The formats of a disk's file.
const (
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// The layout of an empty overlay. A cluster of 64 KiB is QEMU's own default: small
// enough that a copied cluster costs little, large enough that the tables stay
// small. The numbers of fields are those of the section "Header" of the QCow2
// format specification in QEMU's source (docs/interop/qcow2.txt); all are big endian.
const (
	qcowMagic     = 0x514649fb // "QFI" and 0xfb
	qcowVersion   = 3
	clusterBits   = 16
	cluster       = 1 << clusterBits
	refcountOrder = 4   // 16 bits for the count of a cluster
	headerLength  = 104 // version 3 without additional fields

	refTableAt = 1 * cluster
	refBlockAt = 2 * cluster
	l1At       = 3 * cluster

	// clusterRun is how much of the disk one entry of the L1 table stands for: a
	// cluster full of L2 entries, 8 bytes each.
	clusterRun = cluster / 8 * cluster
)

// sector is the unit in which guests count a disk.
const sector = 512

// Overlay makes an empty qcow2 file for a disk of size bytes: nothing in it is
// allocated, so all is read from the file below. What is below stands nowhere in
// the file; whoever opens it says so. It takes some KiB on the host whatever the
// size is. The path must not exist; after an error it does not. Class Invalid for
// a size that no disk has, Unavailable or Exhausted where the host refuses.
//
// It is written here, not by qemu-img, because a start from a template waits for
// it: a process would take a good part of the whole start.
func Overlay(path string, size int64) error {
	if err := validSize(size); err != nil {
		return api.Errorf(api.Invalid, "make overlay %q: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return api.Errorf(api.Unavailable, "make overlay: %w", err)
	}
	var u undo.Stack
	defer u.Run()
	u.Add(func() { os.Remove(path) })
	if err := errors.Join(writeOverlay(f, size), f.Close()); err != nil {
		return api.Errorf(api.Exhausted, "make overlay: %w", err)
	}
	u.Success()
	return nil
}

func validSize(size int64) error {
	if size <= 0 || size%sector != 0 || size > MaxMiB<<20 {
		return fmt.Errorf("%d bytes are not a disk: the size is a multiple of %d, up to %d MiB", size, sector, MaxMiB)
	}
	return nil
}

// writeOverlay leaves holes where the tables are zero: an L1 entry of zero says
// that nothing is allocated.
func writeOverlay(f *os.File, size int64) error {
	l1Entries := (size + clusterRun - 1) / clusterRun
	clusters := l1At/cluster + (8*l1Entries+cluster-1)/cluster

	// The section "Host cluster management": the only refcount block says that
	// each cluster of the file is used once.
	counts := make([]byte, 2*clusters)
	for i := range clusters {
		binary.BigEndian.PutUint16(counts[2*i:], 1)
	}
	_, err1 := f.WriteAt(header(size, int(l1Entries)), 0)
	_, err2 := f.WriteAt(binary.BigEndian.AppendUint64(nil, refBlockAt), refTableAt)
	_, err3 := f.WriteAt(counts, refBlockAt)
	return errors.Join(err1, err2, err3, f.Truncate(clusters*cluster))
}

// header returns the header and the end of its extensions, of which there are none.
func header(size int64, l1Entries int) []byte {
	b := make([]byte, headerLength+8)
	be := binary.BigEndian
	be.PutUint32(b[0:], qcowMagic)
	be.PutUint32(b[4:], qcowVersion)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32(l1Entries))
	be.PutUint64(b[40:], l1At)
	be.PutUint64(b[48:], refTableAt)
	be.PutUint32(b[56:], 1) // clusters of the refcount table
	be.PutUint32(b[96:], refcountOrder)
	be.PutUint32(b[100:], headerLength)
	return b
}

// Size returns how many bytes a guest sees of the disk in a file of a format, Raw
// or Qcow2. Class Invalid where the file is not of the format.
func Size(path, format string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, api.Errorf(api.Unavailable, "read size of disk: %w", err)
	}
	defer f.Close()
	var size int64
	switch format {
	case Raw:
		var fi os.FileInfo
		if fi, err = f.Stat(); err == nil {
			size = fi.Size()
		}
	case Qcow2:
		size, err = qcowSize(f)
	default:
		err = fmt.Errorf("format %q is not known", format)
	}
	if err == nil {
		err = validSize(size)
	}
	if err != nil {
		return 0, api.Errorf(api.Invalid, "read size of disk %q: %w", path, err)
	}
	return size, nil
}

func qcowSize(r io.Reader) (int64, error) {
	var b [32]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("its qcow2 header is cut off: %w", err)
	}
	be := binary.BigEndian
	if be.Uint32(b[0:]) != qcowMagic || be.Uint32(b[4:]) < 2 || be.Uint32(b[4:]) > qcowVersion {
		return 0, errors.New("it is not a qcow2 file")
	}
	return int64(be.Uint64(b[24:])), nil
}
