package manager_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/seal"
)

// carried is a snapshot as a file, and what vouches for it.
type carried struct {
	file   []byte
	digest string
	key    seal.Key
}

// carry makes a snapshot in a home of its own and returns it as a file.
func carry(l *life, diskOnly bool) carried {
	l.Helper()
	sb := l.create(smolvm.Spec{})
	l.counted(sb, 1)
	l.says(sb, "put saved", "<nil>")
	s, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{Name: "carried", DiskOnly: diskOnly})
	l.ok(err)
	l.ok(sb.Remove(l.ctx))
	var file bytes.Buffer
	l.ok(l.SaveSnapshot(l.ctx, "carried", &file))
	key, err := seal.OpenKey(filepath.Join(l.Home, "key"))
	l.ok(err)
	return carried{file.Bytes(), s.Digest, key}
}

func (l *life) load(file []byte, o smolvm.LoadSnapshot) (smolvm.Snapshot, error) {
	return l.LoadSnapshot(l.ctx, bytes.NewReader(file), o)
}

var carryLaws = []law{
	{"to the same installation", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "again"})
		if err != nil || s.Name != "again" || s.Kind != api.SnapshotFull || s.Digest != c.digest {
			l.Fatalf("%+v, %v", s, err)
		}
		child := l.create(smolvm.Spec{FromSnapshot: "again"})
		l.counted(child, 2)
		l.says(child, "got", "saved")
		var file bytes.Buffer
		l.ok(l.SaveSnapshot(l.ctx, "again", &file))
		if s, err := l.load(file.Bytes(), smolvm.LoadSnapshot{Name: "third"}); err != nil || s.Digest != c.digest {
			l.Errorf("%+v, %v", s, err)
		}
	}},
	{"to another installation", func(l *life) {
		c := carry(newLife(l.T), false)
		_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s"})
		l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "--digest sha256:", "another installation")
		for _, digest := range []string{"sha256:" + strings.Repeat("0", 64), "x", c.digest[:len(c.digest)-1]} {
			_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", Digest: digest})
			l.refused(err, smolvm.ErrDenied, seal.CodeAltered, "do not use", "another digest")
		}
		l.has()
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", Digest: c.digest})
		if err != nil || s.Digest != c.digest {
			l.Fatalf("%+v, %v", s, err)
		}
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.counted(child, 2)
		l.says(child, "got", "saved")
	}},
	{"the disk alone", func(l *life) {
		c := carry(l, true)
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s"})
		if err != nil || s.Kind != api.SnapshotDisk || s.Digest != c.digest {
			l.Errorf("%+v, %v", s, err)
		}
		l.says(l.create(smolvm.Spec{FromSnapshot: "s"}), "got", "saved")
	}},
	{"a full one of which the disk alone is taken", func(l *life) {
		c := carry(newLife(l.T), false)
		_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", DiskOnly: true})
		l.fails(err, smolvm.ErrDenied)
		s, err := l.load(c.file, smolvm.LoadSnapshot{Name: "s", DiskOnly: true, Digest: c.digest})
		if err != nil || s.Kind != api.SnapshotDisk {
			l.Fatalf("%+v, %v", s, err)
		}
		l.faults("other VMM")
		child := l.create(smolvm.Spec{FromSnapshot: "s"})
		l.says(child, "got", "saved")
		l.counted(child, 1)
		if parts, _ := filepath.Glob(filepath.Join(l.Home, "snapshots/s/parts/[^rl]*")); len(parts) > 0 {
			l.Errorf("memory was taken in: %v", parts)
		}
	}},
	{"a name that is taken", func(l *life) {
		c := carry(l, false)
		_, err := l.load(c.file, smolvm.LoadSnapshot{Name: "carried"})
		l.refused(err, smolvm.ErrConflict, "", "smolvm snapshot rm carried", "taken")
		_, err = l.load(c.file, smolvm.LoadSnapshot{Name: "../x"})
		l.fails(err, smolvm.ErrInvalid)
		_, err = l.load(c.file, smolvm.LoadSnapshot{}) // under the name that it had
		l.refused(err, smolvm.ErrConflict, "", "smolvm snapshot rm carried", "taken")
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		s, err := l.load(c.file, smolvm.LoadSnapshot{})
		if err != nil || s.Name != "carried" {
			l.Errorf("%+v, %v", s, err)
		}
	}},
	{"what is no snapshot", func(l *life) {
		for name, text := range map[string]string{
			"nothing": "", "text": "hello", "zeros": strings.Repeat("\x00", 1<<16),
			"zstd of nothing": string(compress(l, nil)), "zstd of text": string(compress(l, []byte("hello"))),
			"another tar":  string(compress(l, tarOf(l, entry{name: "x", body: []byte("y")}))),
			"no manifest":  string(compress(l, tarOf(l, entry{name: "point.json", body: []byte("{}")}))),
			"big manifest": string(compress(l, tarOf(l, entry{name: "point.json", body: make([]byte, 5<<20)}))),
		} {
			_, err := l.load([]byte(text), smolvm.LoadSnapshot{Name: "s"})
			if !errors.Is(err, smolvm.ErrInvalid) && !errors.Is(err, smolvm.ErrDenied) || api.AsError(err).Recovery == "" {
				l.Errorf("%s: %v (next step %q)", name, err, api.AsError(err).Recovery)
			}
			l.has()
		}
	}},
	{"cut off anywhere", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		for i := range 40 {
			n := len(c.file) * i / 40
			_, err := l.load(c.file[:n], smolvm.LoadSnapshot{Name: "s"})
			if err == nil {
				l.Fatalf("%d of %d bytes were enough", n, len(c.file))
			}
			if !errors.Is(err, smolvm.ErrInvalid) && !errors.Is(err, smolvm.ErrDenied) || api.AsError(err).Recovery == "" {
				l.Errorf("cut at %d: %v (next step %q)", n, err, api.AsError(err).Recovery)
			}
		}
		l.has()
	}},
	{"a bit flipped anywhere", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		const flips = 100
		for i := range flips {
			at := (len(c.file)*i/flips*8 + i) % (len(c.file) * 8)
			bad := bytes.Clone(c.file)
			bad[at/8] ^= 1 << (at % 8)
			s, err := l.load(bad, smolvm.LoadSnapshot{Name: "s"})
			if err == nil {
				// Some bits mean nothing, such as those of a tar header's time.
				if s.Digest != c.digest {
					l.Errorf("bit %d: it became %s", at, s.Digest)
				}
				l.ok(l.RemoveSnapshot(l.ctx, "s"))
				continue
			}
			if !errors.Is(err, smolvm.ErrInvalid) && !errors.Is(err, smolvm.ErrDenied) {
				l.Errorf("bit %d: %v", at, err)
			}
		}
		l.has()
	}},
	{"cancelled while it is read", func(l *life) {
		c := carry(l, false)
		ctx, cancel := context.WithCancel(l.ctx)
		_, err := l.LoadSnapshot(ctx, io.MultiReader(bytes.NewReader(c.file[:len(c.file)/2]), readerFunc(func([]byte) (int, error) {
			cancel()
			return 0, nil
		})), smolvm.LoadSnapshot{Name: "s"})
		if !errors.Is(err, context.Canceled) {
			l.Errorf("%v", err)
		}
		l.has("carried")
	}},
	{"hostile files", func(l *life) {
		c := carry(l, false)
		l.ok(l.RemoveSnapshot(l.ctx, "carried"))
		m, pieces := unpack(l, c)
		for name, f := range hostile(m, pieces) {
			bad, badPieces := clone(l, m), append([]entry(nil), pieces...)
			f(bad, &badPieces)
			// Signed by the right key even: the file's maker may be anybody once a digest vouches.
			for _, o := range []smolvm.LoadSnapshot{{Name: "s"}, {Name: "s", Digest: bad.Digest()}} {
				start := time.Now()
				_, err := l.load(pack(l, c.key, bad, badPieces), o)
				if err == nil {
					l.Errorf("%s: it was taken in", name)
					l.ok(l.RemoveSnapshot(l.ctx, "s"))
					continue
				}
				if errors.Is(err, smolvm.ErrInternal) {
					l.Errorf("%s: %v", name, err)
				}
				if d := time.Since(start); d > 5*time.Second {
					l.Errorf("%s: it took %v", name, d)
				}
				l.has()
			}
		}
		if _, err := os.Stat(filepath.Join(l.Home, "escaped")); err == nil {
			l.Error("a file was written outside")
		}
		if _, err := l.load(pack(l, c.key, m, pieces), smolvm.LoadSnapshot{Name: "s"}); err != nil {
			l.Errorf("the good one: %v", err) // what is above failed for the right reason
		}
	}},
}

func TestCarryLaws(t *testing.T) { hold(t, carryLaws) }

// hostile are changes of a carried snapshot that must be refused.
func hostile(good *point.Manifest, pieces []entry) map[string]func(*point.Manifest, *[]entry) {
	rename := func(m *point.Manifest, to string) {
		m.Parts[to] = m.Parts[m.Devices]
		delete(m.Parts, m.Devices)
		m.Devices = to
	}
	resize := func(m *point.Manifest, size int64) {
		p := m.Parts[m.Devices]
		p.Stamp.Size = size
		m.Parts[m.Devices] = p
	}
	list := map[string]func(*point.Manifest, *[]entry){
		"other version":  func(m *point.Manifest, _ *[]entry) { m.Version = 99 },
		"no disk":        func(m *point.Manifest, _ *[]entry) { m.Disk = nil },
		"no memory":      func(m *point.Manifest, _ *[]entry) { m.Memory = nil },
		"unknown part":   func(m *point.Manifest, _ *[]entry) { m.Disk = append(m.Disk, "layer-"+strings.Repeat("a", 26)) },
		"part of nobody": func(m *point.Manifest, _ *[]entry) { delete(m.Parts, m.Disk[0]) },
		"image outside":  func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "../../etc/passwd" },
		"image absolute": func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "/etc/passwd" },
		"image empty":    func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "" },
		"image a device": func(m *point.Manifest, _ *[]entry) { m.Image.RootFS = "images/../key" },
		"huge size":      func(m *point.Manifest, _ *[]entry) { resize(m, 1<<62) },
		"negative size":  func(m *point.Manifest, _ *[]entry) { resize(m, -1) },
		"large size":     func(m *point.Manifest, _ *[]entry) { resize(m, 1<<40) },
		"other size":     func(m *point.Manifest, _ *[]entry) { resize(m, 5) },
		"many parts": func(m *point.Manifest, _ *[]entry) {
			for i := range 5000 {
				name := fmt.Sprintf("layer-%026d", i)
				m.Disk = append(m.Disk, name)
				m.Parts[name] = m.Parts[m.Disk[0]]
			}
		},
		"one part twice": func(m *point.Manifest, _ *[]entry) { m.Disk = append(m.Disk, m.Disk[0]) },
		"pieces gone":    func(_ *point.Manifest, p *[]entry) { *p = nil },
	}
	for _, to := range []string{"../../../escaped", "/tmp/escaped", "devices", "devices-" + strings.Repeat("A", 26), ".", "devices-" + strings.Repeat("a", 27), "devices-../" + strings.Repeat("a", 23)} {
		list["name "+to] = func(m *point.Manifest, p *[]entry) {
			old := m.Devices
			rename(m, to)
			for i := range *p {
				if (*p)[i].name == old {
					(*p)[i].name = to
				}
			}
		}
	}
	for _, off := range []string{"-1", "9223372036854775807", "99999999999999999999", "x", "", "1048576"} {
		list["piece at "+off] = func(m *point.Manifest, p *[]entry) {
			for i := range *p {
				if (*p)[i].name == m.Devices {
					(*p)[i].off = off
				}
			}
		}
	}
	list["large piece"] = func(m *point.Manifest, p *[]entry) {
		resize(m, 4<<20)
		*p = append(*p, entry{name: m.Devices, body: bytes.Repeat([]byte("x"), 2<<20), off: "0"})
	}
	list["other bytes"] = func(m *point.Manifest, p *[]entry) {
		for i := range *p {
			if (*p)[i].name == m.Devices {
				(*p)[i].body = bytes.Repeat([]byte("x"), len((*p)[i].body))
			}
		}
	}
	return list
}

// entry is a piece of a carried snapshot.
type entry struct {
	name, off string
	body      []byte
}

func tarOf(l *life, entries ...entry) []byte {
	l.Helper()
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, e := range entries {
		h := tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.body)), Format: tar.FormatPAX}
		if e.off != "" {
			h.PAXRecords = map[string]string{"SMOLVM.offset": e.off}
		}
		l.ok(t.WriteHeader(&h))
		_, err := t.Write(e.body)
		l.ok(err)
	}
	l.ok(t.Close())
	return b.Bytes()
}

func compress(l *life, b []byte) []byte {
	l.Helper()
	z, err := zstd.NewWriter(nil)
	l.ok(err)
	return z.EncodeAll(b, nil)
}

func unpack(l *life, c carried) (*point.Manifest, []entry) {
	l.Helper()
	z, err := zstd.NewReader(bytes.NewReader(c.file))
	l.ok(err)
	defer z.Close()
	t := tar.NewReader(z)
	var list []entry
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		l.ok(err)
		b, err := io.ReadAll(t)
		l.ok(err)
		list = append(list, entry{h.Name, h.PAXRecords["SMOLVM.offset"], b})
	}
	doc, err := c.key.Open(list[0].body)
	l.ok(err)
	m := new(point.Manifest)
	l.ok(json.Unmarshal(doc, m))
	return m, list[1:]
}

func clone(l *life, m *point.Manifest) *point.Manifest {
	b, err := json.Marshal(m)
	l.ok(err)
	c := new(point.Manifest)
	l.ok(json.Unmarshal(b, c))
	return c
}

func pack(l *life, key seal.Key, m *point.Manifest, pieces []entry) []byte {
	l.Helper()
	doc, err := json.Marshal(m)
	l.ok(err)
	return compress(l, tarOf(l, append([]entry{{name: "point.json", body: key.Sign(doc)}}, pieces...)...))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
