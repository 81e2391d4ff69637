package point

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

// partRE is what a part's name looks like: it becomes part of a path.
var partRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z]{1,16}-[a-z0-9]{26}$`) })

// readFrom reads, authenticates and checks a manifest.
func readFrom(key seal.Key, path string, r io.Reader) (*Manifest, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxManifest {
		return nil, altered(path, nil)
	}
	doc, err := key.Open(b)
	if err != nil {
		return nil, altered(path, err)
	}
	return parse(path, doc)
}

// parse reads a manifest whose bytes are trusted, and still takes nothing from it
// that could lead elsewhere.
func parse(path string, doc []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, altered(path, err)
	}
	if m.Version != version {
		return nil, api.Errorf(api.Conflict, "%s has version %d, this smolvm knows version %d", path, m.Version, version).
			WithCode("wrong_version").WithRecovery("Use the smolvm that wrote it.")
	}
	if !filepath.IsLocal(m.Image.RootFS) || filepath.Clean(m.Image.RootFS) != m.Image.RootFS || !strings.HasPrefix(m.Image.RootFS, "images/") {
		return nil, altered(path, nil)
	}
	names := m.names()
	if m.Match.DiskMiB > api.MaxDiskMiB || m.Match.MemoryMiB > api.MaxMemoryMiB {
		return nil, altered(path, nil)
	}
	if len(names) > maxParts || len(m.Disk) == 0 || (m.Full() && len(m.Memory) == 0) {
		return nil, altered(path, nil)
	}
	for _, name := range names {
		if _, ok := m.Parts[name]; !ok || !partRE().MatchString(name) {
			return nil, altered(path, nil)
		}
	}
	return &m, nil
}

// onDisk is what a file takes on disk.
func onDisk(path string) int64 {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}

// Remove removes a directory that holds a point. The manifest goes first: what is
// left of it after a crash is no point.
func Remove(manifest, dir string) error {
	if err := os.Remove(manifest); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.RemoveAll(dir)
}
