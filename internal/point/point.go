// Package point is a saved sandbox on disk: a manifest and the files, its parts,
// that it names.
//
//	p, err := point.Open(key, dir.Manifest(), dir.Parts())
//	err = p.LinkTo(other.Parts())
//
// Templates, snapshots, hibernated sandboxes, steps of a history and what a fork
// hands to its children are all points.
//
// # Parts
//
// A part's name is unique for ever, and a part does not change once a manifest
// names it. So points share parts by hard links, and nothing counts references: a
// file is there for as long as a directory has a link to it.
//
// # Trust
//
// A saved memory is a program that the host hands to a VMM: a manifest is
// authenticated with the installation's key and holds the digest of each part.
// Reading all parts at each use would take longer than everything else, so the
// manifest also holds a stamp of each (see package seal): a part whose file has
// not been written since its digest was computed, in this boot of the host, is not
// read again.
package point

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
)

// version is the format of manifests and of what they mean.
const version = 1

// Limits of a manifest, so that a hostile one is refused early.
const (
	maxManifest = 4 << 20
	maxParts    = 4096
)

// Match is all that a saved memory depends on beside its own parts. Two points
// with equal matches may continue on the same machines.
type Match struct {
	Format    int    `json:"format"`
	Driver    string `json:"driver"` // the driver's fingerprint of the machine
	VMM       string `json:"vmm"`    // name and version
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	DiskMiB   int    `json:"disk_mib"`
}

// Manifest says what a point is.
type Manifest struct {
	Version int           `json:"version"`
	Image   control.Image `json:"image"`
	Ref     string        `json:"ref"` // the image's name when the sandbox was made
	Source  string        `json:"source,omitempty"`
	Created time.Time     `json:"created"`
	PauseMS float64       `json:"pause_ms,omitempty"`
	Accel   api.Accel     `json:"accel,omitempty"`
	Match   Match         `json:"match"`

	Devices string   `json:"devices,omitempty"` // part; empty: disk only
	Memory  []string `json:"memory,omitempty"`  // parts: the base, then what differs, oldest first
	Disk    []string `json:"disk"`              // parts, the lowest first

	// Names are the addresses that its network had told the guest for names, which it
	// may believe yet: of package netstack, for who continues the memory.
	Names json.RawMessage `json:"names,omitempty"`

	Step *api.Step `json:"step,omitempty"` // of a history

	Parts map[string]Part `json:"parts"`
}

// Part is what is known of a part's file.
type Part struct {
	Digest string     `json:"digest"` // of seal.Digest, in hex
	Bytes  int64      `json:"bytes"`  // that it takes on disk
	Stamp  seal.Stamp `json:"stamp"`
}

// Full reports whether the point holds memory and processes.
func (m *Manifest) Full() bool { return m.Devices != "" }

// names are all the parts that the manifest is made of.
func (m *Manifest) names() []string {
	list := slices.Concat(m.Memory, m.Disk)
	if m.Devices != "" {
		list = append(list, m.Devices)
	}
	return list
}

// Bytes is what the parts take on disk.
func (m *Manifest) Bytes() (n int64) {
	for _, p := range m.Parts {
		n += p.Bytes
	}
	return n
}

// Digest is over all that the point holds, but not where and when it lies: it is
// the same after the point was carried elsewhere.
func (m *Manifest) Digest() string {
	c := *m
	c.Parts = make(map[string]Part, len(m.Parts))
	for name, p := range m.Parts {
		c.Parts[name] = Part{Digest: p.Digest}
	}
	b, _ := json.Marshal(c) // of plain data, which cannot fail
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// NewPart returns a new part's name of a kind such as "disk".
func NewPart(kind string) string { return kind + "-" + strings.ToLower(rand.Text()) }

// Care says how long a point is to be of use.
type Care int

const (
	// Brief is for a point that is used at once and then removed: no part is read, and
	// one whose stamp does not hold is refused.
	Brief Care = iota
	// Checked is for a point that is worth no waiting for the host's disk: after a
	// power cut it may turn out not to be what was saved, and is refused.
	Checked
	// Durable survives a power cut.
	Durable
)

// Write computes what is not known of the parts and writes the manifest: the whole
// file or none.
func Write(key seal.Key, path, parts string, m *Manifest, care Care) error {
	m.Version = version
	known := m.Parts
	m.Parts = make(map[string]Part)
	for _, name := range m.names() {
		p, ok := known[name]
		if !ok {
			var err error
			if p, err = describe(filepath.Join(parts, name), care); err != nil {
				return api.Errorf(api.Internal, "save %s: %w", name, err)
			}
		}
		m.Parts[name] = p
	}
	return write(key, path, m)
}

// syncFile has the host write a file to its disk. After a power cut a manifest would
// else speak of parts that are not there.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func write(key seal.Key, path string, m *Manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return store.WriteFile(path, key.Sign(b), 0o600)
}

// describe looks at a part with the care that is asked for.
func describe(path string, care Care) (Part, error) {
	if care == Durable {
		if err := syncFile(path); err != nil {
			return Part{}, err
		}
	}
	// The stamp first: a write during the digest then shows.
	stamp, err := seal.StampOf(path)
	p := Part{Bytes: onDisk(path), Stamp: stamp}
	if err != nil || care == Brief {
		return p, err
	}
	sum, err := seal.Digest(path)
	p.Digest = hex.EncodeToString(sum[:])
	return p, err
}

// Point is a point that was found to be as it was saved.
type Point struct {
	Manifest
	parts string
}

// Open reads a point and verifies all of it. Class NotFound where there is none,
// Denied with code "altered" where the manifest or a part is not as it was saved.
// A part that had to be read is stamped anew.
func Open(key seal.Key, path, parts string) (*Point, error) {
	m, err := Read(key, path)
	if err != nil {
		return nil, err
	}
	fresh := false
	for _, name := range m.names() {
		p := m.Parts[name]
		file := filepath.Join(parts, name)
		if p.Stamp.Holds(file) {
			continue
		}
		if p.Digest == "" { // Brief
			return nil, altered(file, nil)
		}
		now, err := describe(file, Checked)
		if _, gone := os.Stat(path); gone != nil { // removed meanwhile, the manifest first
			return nil, none(path)
		}
		if err != nil || now.Digest != p.Digest {
			return nil, altered(file, err)
		}
		m.Parts[name], fresh = now, true
	}
	if fresh {
		// Only saves time: without it the next use reads the part again.
		write(key, path, m)
	}
	return &Point{*m, parts}, nil
}

// Read is Open that looks at the manifest alone.
func Read(key seal.Key, path string) (*Manifest, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, none(path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readFrom(key, path, f)
}

func none(path string) error { return api.Errorf(api.NotFound, "open %s: there is none", path) }

func altered(file string, cause error) error {
	e := api.Errorf(api.Denied, "%s is not as it was saved", file).WithCode(seal.CodeAltered)
	if cause != nil {
		e = api.Errorf(api.Denied, "%s is not as it was saved: %w", file, cause).WithCode(seal.CodeAltered)
	}
	return e.WithRecovery("Remove what it belongs to and make it again; do not use it.")
}

// Dir is the directory of a point that has one of its own.
func (p *Point) Dir() store.PointDir { return store.PointDir(filepath.Dir(p.parts)) }

// Path returns the path of a part.
func (p *Point) Path(part string) string { return filepath.Join(p.parts, part) }

// LinkTo gives another directory links to all parts.
func (p *Point) LinkTo(parts string) error {
	for _, name := range p.names() {
		err := os.Link(p.Path(name), filepath.Join(parts, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return api.Errorf(api.Internal, "link %s: %w", name, err)
		}
	}
	return nil
}
