// Package kernel gets guest kernels and keeps them: an uncompressed ELF kernel
// that QEMU boots directly, and the modules that a guest needs.
//
//	k, err := kernel.Current(s)                       // the kernel to boot
//	k, err = kernel.Fetch(ctx, s, kernel.Options{})   // from Debian, by package name
//	k, err = kernel.FromDeb(ctx, s, "linux-image.deb", kernel.Options{})
//	k, err = kernel.FromFiles(ctx, s, "vmlinux", "/lib/modules/6.1.0", kernel.Options{})
//
// A kernel lives in a directory named by the hash of all its files and never
// changes after it is there. A link, "current", says which one new sandboxes boot.
package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/store"
)

// CodeMissing is the error code where no kernel is there.
const CodeMissing = "missing_kernel"

// Names in a kernel's directory, and of the link to the kernel in use.
const (
	metaName    = "kernel.json"
	vmlinuxName = "vmlinux"
	modulesName = "modules"
	currentName = "current"
)

// Meta is what is recorded of a kernel.
type Meta struct {
	Package string   `json:"package,omitempty"` // Debian package; empty for local files
	Version string   `json:"version,omitempty"` // of the package
	Source  string   `json:"source"`            // where it came from, for people
	SHA256  string   `json:"sha256"`            // of the package or file it was made from
	Vmlinux File     `json:"vmlinux"`
	Modules []Module `json:"modules"` // in dependency order
}

// File is one recorded file.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Module is one kernel module.
type Module struct {
	Name    string   `json:"name"` // with underscores, as the kernel spells it
	Depends []string `json:"depends,omitempty"`
	File
}

// Kernel is a kernel that is there.
type Kernel struct {
	ID   string // hex hash of all files
	Dir  string
	Meta Meta
}

// Vmlinux is the path of the ELF kernel.
func (k Kernel) Vmlinux() string { return filepath.Join(k.Dir, vmlinuxName) }

// Module is the path of a module's file.
func (k Kernel) Module(name string) string {
	return filepath.Join(k.Dir, modulesName, name+".ko")
}

// Options say how a kernel is got.
type Options struct {
	Progress progress.Func // may be nil
}

// Current returns the kernel that new sandboxes boot. Its files are checked by
// size; Verify checks them whole. Class Unavailable where there is none.
func Current(s store.Store) (Kernel, error) {
	id, err := os.Readlink(filepath.Join(s.Kernels(), currentName))
	if os.IsNotExist(err) {
		return Kernel{}, api.Errorf(api.Unavailable, "find guest kernel: none is installed").
			WithCode(CodeMissing).WithRecovery("Run smolvm setup.")
	}
	if err != nil {
		return Kernel{}, api.Errorf(api.Internal, "find guest kernel: %w", err)
	}
	return Open(s, id)
}

// Open returns the kernel of an id.
func Open(s store.Store, id string) (Kernel, error) {
	k := Kernel{ID: id, Dir: filepath.Join(s.Kernels(), filepath.Base(id))}
	err := store.ReadJSON(filepath.Join(k.Dir, metaName), &k.Meta)
	if os.IsNotExist(err) {
		return Kernel{}, api.Errorf(api.NotFound, "open kernel %s: it is not there", id).
			WithCode(CodeMissing).WithRecovery("Run smolvm setup.")
	}
	if err != nil {
		return Kernel{}, damaged(id, err)
	}
	return k, k.each(func(path string, f File) error {
		st, err := os.Stat(path)
		if err != nil {
			return damaged(id, err)
		}
		if st.Size() != f.Size {
			return damaged(id, fmt.Errorf("%s has %d bytes, not %d", path, st.Size(), f.Size))
		}
		return nil
	})
}

// Verify reads all files of the kernel and compares their hashes.
func (k Kernel) Verify() error {
	return k.each(func(path string, want File) error {
		got, err := hashFile(path)
		if err != nil {
			return damaged(k.ID, err)
		}
		if got != want {
			return damaged(k.ID, fmt.Errorf("%s has hash %s, not %s", path, got.SHA256, want.SHA256))
		}
		return nil
	})
}

// List returns all kernels, in order of id.
func List(s store.Store) ([]Kernel, error) {
	entries, err := os.ReadDir(s.Kernels())
	if err != nil {
		return nil, err
	}
	var ks []Kernel
	for _, e := range entries {
		if !e.IsDir() || !isID(e.Name()) {
			continue
		}
		if k, err := Open(s, e.Name()); err == nil {
			ks = append(ks, k)
		}
	}
	return ks, nil
}

// GC removes all kernels but the current one and those in use, and returns the
// removed ids. A nil inUse means that no other is.
func GC(s store.Store, inUse func(id string) bool) ([]string, error) {
	current, err := os.Readlink(filepath.Join(s.Kernels(), currentName))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	entries, err := os.ReadDir(s.Kernels())
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, e := range entries {
		id := e.Name()
		if !isID(id) || id == current || (inUse != nil && inUse(id)) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.Kernels(), id)); err != nil {
			return gone, err
		}
		gone = append(gone, id)
	}
	return gone, nil
}

// each calls f for every recorded file until one fails.
func (k Kernel) each(f func(path string, want File) error) error {
	if err := f(k.Vmlinux(), k.Meta.Vmlinux); err != nil {
		return err
	}
	for _, m := range k.Meta.Modules {
		if err := f(k.Module(m.Name), m.File); err != nil {
			return err
		}
	}
	return nil
}

func damaged(id string, err error) error {
	return api.Errorf(api.Unavailable, "open kernel %s: damaged: %w", id, err).
		WithCode("damaged_kernel").WithRecovery("Run smolvm setup again.")
}

// isID reports whether a name is a kernel's id.
func isID(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == sha256.Size
}

// install moves the made kernel of a scratch directory into place under the id
// of its files and makes it the current one.
func install(s store.Store, work *store.Scratch, m Meta) (Kernel, error) {
	if err := store.WriteJSON(work.Path(outName, metaName), m); err != nil {
		return Kernel{}, err
	}
	id, err := identify(m)
	if err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(s.Kernels(), id)
	if _, err := Open(s, id); err != nil {
		// What is there under this id, if anything, is damaged.
		if err := os.RemoveAll(dir); err != nil {
			return Kernel{}, err
		}
		if err := os.Rename(work.Path(outName), dir); err != nil && !errors.Is(err, os.ErrExist) {
			return Kernel{}, err
		}
	}
	if err := use(s, id, work.Path(currentName)); err != nil {
		return Kernel{}, err
	}
	return Open(s, id)
}

// identify hashes what is recorded of the files, not where they came from: two
// ways to the same files give one kernel.
func identify(m Meta) (string, error) {
	b, err := json.Marshal(struct {
		V File
		M []Module
	}{m.Vmlinux, m.Modules})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), err
}

// use points the current link at a kernel; a reader sees the old one or the new.
func use(s store.Store, id, tmp string) error {
	if err := os.Symlink(id, tmp); err != nil {
		return err
	}
	return errors.Join(os.Rename(tmp, filepath.Join(s.Kernels(), currentName)), store.SyncDir(s.Kernels()))
}

func hashFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return File{n, hex.EncodeToString(h.Sum(nil))}, err
}

// String names the kernel for people.
func (k Kernel) String() string {
	parts := slices.DeleteFunc([]string{k.Meta.Package, k.Meta.Version}, func(s string) bool { return s == "" })
	if len(parts) == 0 {
		parts = []string{k.Meta.Source}
	}
	return strings.Join(parts, " ")
}
