package point

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
)

// A carried point is a zstd-compressed tar archive. Its first entry is the sealed
// manifest. Each other one is a piece of a part, at most pieceSize long, with the
// place of its first byte in a PAX record: what no piece fills is zero, so a disk of
// many GiB with little in it is a short file.
const (
	manifestEntry = "point.json"
	paxOffset     = "SMOLVM.offset"
	paxName       = "SMOLVM.name" // of the snapshot, in the record of the manifest; a mere suggestion
	pieceSize     = 1 << 20
)

// Save writes a point to w, to be carried to another place under the name it has here.
func Save(key seal.Key, p *Point, name string, w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	doc, err := json.Marshal(p.Manifest)
	if err != nil {
		return err
	}
	sealed := key.Sign(doc)
	h := tar.Header{
		Name: manifestEntry, Mode: 0o600, Size: int64(len(sealed)), Format: tar.FormatPAX,
		PAXRecords: map[string]string{paxName: name},
	}
	if err := t.WriteHeader(&h); err != nil {
		return err
	}
	if _, err := t.Write(sealed); err != nil {
		return err
	}
	for _, name := range p.names() {
		if err := savePart(t, name, p.Path(name)); err != nil {
			return api.Errorf(api.ClassOf(err), "save part %s: %w", name, err)
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func savePart(t *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zero := make([]byte, pieceSize), make([]byte, pieceSize)
	return eachData(f, func(off, n int64) error {
		piece := buf[:n]
		if _, err := f.ReadAt(piece, off); err != nil {
			return err
		}
		if bytes.Equal(piece, zero[:n]) {
			return nil
		}
		h := tar.Header{
			Name: name, Mode: 0o600, Size: n, Format: tar.FormatPAX,
			PAXRecords: map[string]string{paxOffset: strconv.FormatInt(off, 10)},
		}
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
		_, err := t.Write(piece)
		return err
	})
}

// LoadOptions says what to take of a carried point, and why to trust it.
type LoadOptions struct {
	Digest   string // that vouches for a point of another installation; may be empty
	DiskOnly bool
}

// Load reads a carried point into a directory that is there and empty, and returns
// the name that it had. Class Denied where it was altered, or nothing vouches for it.
func Load(key seal.Key, r io.Reader, dir store.PointDir, o LoadOptions) (m *Manifest, name string, err error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, "", err
	}
	defer z.Close()
	t := tar.NewReader(z)
	m, name, err = loadManifest(key, t, o.Digest)
	if err != nil {
		return nil, "", err
	}
	if o.DiskOnly {
		m.Devices, m.Memory = "", nil
	}
	if err := loadParts(t, dir, m); err != nil {
		return nil, "", err
	}
	for _, part := range m.Disk {
		if err := checkLayer(filepath.Join(dir.Parts(), part)); err != nil {
			return nil, "", altered("part "+part, err)
		}
	}
	want := m.Parts
	m.Parts = nil // computed anew by Write, from what was really written
	if err := Write(key, dir.Manifest(), dir.Parts(), m, Durable); err != nil {
		return nil, "", err
	}
	for part, p := range m.Parts {
		if p.Digest != want[part].Digest {
			return nil, "", altered("part "+part, nil)
		}
	}
	return m, name, nil
}

func loadManifest(key seal.Key, t *tar.Reader, digest string) (*Manifest, string, error) {
	h, err := t.Next()
	if err != nil || h.Name != manifestEntry || h.Size > maxManifest {
		return nil, "", api.Errorf(api.Invalid, "read snapshot file: it is no snapshot of smolvm").
			WithRecovery("Give a file that smolvm snapshot save wrote.")
	}
	sealed, err := io.ReadAll(t)
	if err != nil {
		return nil, "", unreadable(err)
	}
	doc, ours := key.Open(sealed)
	if ours != nil {
		if digest == "" {
			return nil, "", api.Errorf(api.Denied, "the snapshot file was altered, or made by another installation of smolvm").WithCode(seal.CodeAltered).
				WithRecovery("If you trust where it comes from, give the digest that smolvm snapshot save printed there: --digest sha256:...")
		}
		if doc, err = seal.Unverified(sealed); err != nil {
			return nil, "", err
		}
	}
	m, err := parse("snapshot file", doc)
	if err != nil {
		return nil, "", err
	}
	if digest != "" && digest != m.Digest() {
		return nil, "", api.Errorf(api.Denied, "the snapshot file has another digest than was given").WithCode(seal.CodeAltered).
			WithRecovery("Compare with what smolvm snapshot save printed where the file was made; do not use a file that differs.")
	}
	if ours != nil {
		m.Names = nil // who made the file could have any name lead to a server of his own; the guest asks again
	}
	return m, h.PAXRecords[paxName], nil
}

// loadParts writes the pieces of the parts that m names, and nothing else.
func loadParts(t *tar.Reader, dir store.PointDir, m *Manifest) error {
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, name := range m.names() {
		f, err := os.OpenFile(filepath.Join(dir.Parts(), name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			return altered("part "+name, errors.New("it is in it twice"))
		}
		if err != nil {
			return err
		}
		files[name] = f
		if size := m.Parts[name].Stamp.Size; size < 0 || size > m.maxPart() {
			return altered("part "+name, fmt.Errorf("it has %d bytes", size))
		}
		if err := f.Truncate(m.Parts[name].Stamp.Size); err != nil {
			return api.Errorf(api.Exhausted, "make part %s: %w", name, err)
		}
	}
	buf := make([]byte, pieceSize)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return unreadable(err)
		}
		f, ok := files[h.Name]
		if !ok {
			continue // of the memory that is left behind, or nothing that the manifest knows
		}
		off, err := strconv.ParseInt(h.PAXRecords[paxOffset], 10, 64)
		if err != nil || off < 0 || h.Size > pieceSize || off > m.Parts[h.Name].Stamp.Size-h.Size {
			return altered("part "+h.Name, fmt.Errorf("a piece lies outside of it"))
		}
		if _, err := io.ReadFull(t, buf[:h.Size]); err != nil {
			return unreadable(err)
		}
		if _, err := f.WriteAt(buf[:h.Size], off); err != nil {
			return api.Errorf(api.Exhausted, "write part %s: %w", h.Name, err)
		}
	}
}

// maxPart bounds a part, in bytes: nothing vouches for the size of one before all of
// it was read. A disk or a memory of which all is stored has tables beside it, and a
// device state some MiB.
func (m *Manifest) maxPart() int64 {
	return (2*int64(max(m.Match.DiskMiB, m.Match.MemoryMiB)) + 256) << 20
}

func unreadable(err error) error {
	return api.Errorf(api.Invalid, "read snapshot file: %w", err).WithRecovery("The file may be cut off; copy it again.")
}
