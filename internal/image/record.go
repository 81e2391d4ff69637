package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

// Bounds of an image's own words.
const (
	maxManifest = 4 << 20 // as registries have it
	maxConfig   = 4 << 20
	maxLayers   = 256 // twice what Docker can mount
)

// rootfsFormat is part of the name of each ext4 file: count it up when the same
// layers would give other bytes.
const rootfsFormat = "1"

// record is what is written down of an image when it comes in.
type record struct {
	Digest       string    `json:"digest"`
	ConfigDigest string    `json:"config_digest"`
	Platform     string    `json:"platform"`
	Created      time.Time `json:"created"`
	Config       Config    `json:"config"`
	Layers       []Layer   `json:"layers"`
	RootFSBytes  int64     `json:"rootfs_bytes"`
	Ref          string    `json:"-"` // canonical name by which it was found
}

func (r record) image(im *Images) Image {
	i := Image{
		Digest: r.Digest, ConfigDigest: r.ConfigDigest, Platform: r.Platform, Created: r.Created,
		RootFSBytes: r.RootFSBytes, Config: r.Config, Layers: r.Layers,
		RootFS: im.rootfsPath(r.Layers),
	}
	if r.Ref != "" {
		i.Ref = familiar(r.Ref)
	}
	for _, l := range r.Layers {
		i.SizeBytes += l.Size
	}
	return i
}

// rootfsPath is the ext4 file of a list of layers: images with the same layers share it.
func (im *Images) rootfsPath(layers []Layer) string {
	return im.path(rootfsDir, chainKey(layers)+".ext4")
}

// chainKey names a list of layers by what is in them unpacked.
func chainKey(layers []Layer) string {
	h := sha256.New()
	fmt.Fprintln(h, rootfsFormat)
	for _, l := range layers {
		fmt.Fprintln(h, l.DiffID)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// record reads the record of a manifest's hex digest.
func (im *Images) record(h string) (record, error) {
	var r record
	err := store.ReadJSON(im.path(recordsDir, h+".json"), &r)
	if os.IsNotExist(err) {
		return record{}, api.Errorf(api.NotFound, "no image of this digest is here")
	}
	return r, err
}

// records returns all records by digest.
func (im *Images) records() (map[string]record, error) {
	paths, err := filepath.Glob(im.path(recordsDir, "*.json"))
	if err != nil {
		return nil, err
	}
	out := map[string]record{}
	for _, p := range paths {
		r, err := im.record(strings.TrimSuffix(filepath.Base(p), ".json"))
		if err != nil {
			return nil, err
		}
		out[r.Digest] = r
	}
	return out, nil
}

// newRecord makes a record of an image's manifest and config, which it checks.
func newRecord(manifest, config []byte) (record, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return record{}, err
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return record{}, api.Errorf(api.Invalid, "read image config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return record{}, api.Errorf(api.Invalid, "image has %d layers and %d hashes of their content", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	r := record{
		Digest: digestOf(manifest), ConfigDigest: digestOf(config),
		Platform: platformOf(c), Created: c.Created.UTC(), Config: configOf(c.Config), Layers: []Layer{},
	}
	if r.ConfigDigest != m.Config.Digest.String() {
		return record{}, api.Errorf(api.Invalid, "image config has hash %s, not %s", r.ConfigDigest, m.Config.Digest)
	}
	for i, l := range m.Layers {
		d := c.RootFS.DiffIDs[i]
		if l.Digest.Algorithm != "sha256" || d.Algorithm != "sha256" || l.Size < 0 {
			return record{}, api.Errorf(api.Invalid, "layer %d has a bad hash or size", i+1)
		}
		r.Layers = append(r.Layers, Layer{l.Digest.String(), d.String(), l.Size, string(l.MediaType)})
	}
	return r, nil
}

// parseManifest reads an image's manifest and checks its bounds.
func parseManifest(b []byte) (*v1.Manifest, error) {
	if len(b) > maxManifest {
		return nil, api.Errorf(api.Invalid, "image manifest of %d bytes: larger than %d", len(b), maxManifest)
	}
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "read image manifest: %w", err)
	}
	if m.Config.Size < 0 || m.Config.Size > maxConfig {
		return nil, api.Errorf(api.Invalid, "image config of %d bytes: larger than %d", m.Config.Size, maxConfig)
	}
	if len(m.Layers) > maxLayers {
		return nil, api.Errorf(api.Invalid, "image has %d layers, more than %d", len(m.Layers), maxLayers)
	}
	return m, nil
}

func platformOf(c *v1.ConfigFile) string {
	p := v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
	return p.String()
}

func configOf(c v1.Config) Config {
	return Config{
		Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		Labels: c.Labels, Shell: c.Shell, StopSignal: c.StopSignal,
		ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
	}
}

// ociConfig is the inverse of configOf.
func (c Config) ociConfig() v1.Config {
	out := v1.Config{
		Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		Labels: c.Labels, Shell: c.Shell, StopSignal: c.StopSignal,
	}
	for _, p := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p] = struct{}{}
	}
	for _, v := range c.Volumes {
		if out.Volumes == nil {
			out.Volumes = map[string]struct{}{}
		}
		out.Volumes[v] = struct{}{}
	}
	return out
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
