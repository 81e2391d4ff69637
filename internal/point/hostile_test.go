package point

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
)

// overlay is the beginning of a qcow2 file as smolvm makes them.
func overlay(change func(h []byte)) []byte {
	h := make([]byte, 4096)
	binary.BigEndian.PutUint32(h, qcowMagic)
	binary.BigEndian.PutUint32(h[4:], 3)
	change(h)
	return h
}

// Whoever made a snapshot's file may have been told to be trusted, and must still not
// reach the host's files.
func TestLoadOfHostilePoints(t *testing.T) {
	for name, c := range map[string]struct {
		layer  []byte
		resize int64
		ok     bool
	}{
		"as smolvm makes them": {layer: overlay(func([]byte) {}), ok: true},
		"data file":            {layer: overlay(func(h []byte) { h[qcowFeatures+7] = 4 })},
		"file below":           {layer: overlay(func(h []byte) { h[qcowBacking+7] = 200 })},
		"version 2":            {layer: overlay(func(h []byte) { h[7] = 2 })},
		"huge part":            {layer: overlay(func([]byte) {}), resize: 1 << 50},
		"negative part":        {layer: overlay(func([]byte) {}), resize: -1},
	} {
		t.Run(name, func(t *testing.T) {
			file, digest := carried(t, c.layer, c.resize)
			dir := newDir(t)
			// Another installation, that was given the digest.
			m, _, err := Load(seal.Key{2}, file, dir, LoadOptions{Digest: digest})
			if c.ok && err != nil {
				t.Fatal(err)
			}
			if c.ok && m.Names != nil {
				t.Errorf("it says where names lead: %s", m.Names)
			}
			if !c.ok && (!errors.Is(err, api.ErrDenied) || api.AsError(err).Code != seal.CodeAltered) {
				t.Errorf("it was taken in: %v", err)
			}
		})
	}
}

func newDir(t *testing.T) store.PointDir {
	t.Helper()
	dir := store.PointDir(t.TempDir())
	if err := os.Mkdir(dir.Parts(), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// carried makes a point's file whose upper layer is given, and says another size of
// that than it has, where resize is not 0.
func carried(t *testing.T, layer []byte, resize int64) (*bytes.Buffer, string) {
	t.Helper()
	dir := newDir(t)
	m := &Manifest{
		Image: control.Image{RootFS: "images/base"}, Match: Match{DiskMiB: 256, MemoryMiB: 256},
		Disk:  []string{NewPart("raw"), NewPart("layer")},
		Names: []byte(`[{"name":"api.example.com","addr":"6.6.6.6","left":600000000000}]`),
	}
	for i, content := range [][]byte{[]byte("disk"), layer} {
		if err := os.WriteFile(filepath.Join(dir.Parts(), m.Disk[i]), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := seal.Key{1}
	if err := Write(key, dir.Manifest(), dir.Parts(), m, Checked); err != nil {
		t.Fatal(err)
	}
	digest := m.Digest()
	if resize != 0 {
		p := m.Parts[m.Disk[1]]
		p.Stamp.Size = resize
		m.Parts[m.Disk[1]] = p
	}
	var file bytes.Buffer
	if err := Save(key, &Point{*m, dir.Parts()}, "a-name", &file); err != nil {
		t.Fatal(err)
	}
	return &file, digest
}
