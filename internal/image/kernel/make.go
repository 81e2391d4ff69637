package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/store"
)

// Names in the scratch directory of a kernel that is being made.
const (
	inName  = "in"  // the unpacked package
	outName = "out" // the kernel's directory to be
)

// FromDeb makes a kernel of a Debian package file (linux-image-*.deb) and makes
// it the current one. Class Invalid where the file is no such package.
func FromDeb(ctx context.Context, s store.Store, path string, o Options) (Kernel, error) {
	work, err := s.Scratch("kernel")
	if err != nil {
		return Kernel{}, api.Errorf(api.Unavailable, "import kernel %q: %w", path, err)
	}
	defer work.Close()
	k, err := fromDeb(ctx, s, work, deb{path: path, source: filepath.Base(path)}, o)
	if err != nil {
		return Kernel{}, api.Errorf(api.Invalid, "import kernel %q: %w", path, err).
			WithRecovery("Give a linux-image-*.deb package, or a vmlinux with its modules directory.")
	}
	return k, nil
}

// FromFiles makes a kernel of an ELF kernel or boot image and of a directory
// with its modules (such as /lib/modules/VERSION), and makes it the current one.
func FromFiles(ctx context.Context, s store.Store, image, modules string, o Options) (Kernel, error) {
	work, err := s.Scratch("kernel")
	if err != nil {
		return Kernel{}, api.Errorf(api.Unavailable, "import kernel %q: %w", image, err)
	}
	defer work.Close()
	k, err := fromFiles(ctx, s, work, source{image: image, modules: modules, meta: Meta{Source: image}}, o)
	if err != nil {
		return Kernel{}, api.Errorf(api.Invalid, "import kernel %q: %w", image, err).
			WithRecovery("Give an x86 boot image or a vmlinux, and the directory with its modules.")
	}
	return k, nil
}

// deb is a package file whose kernel is wanted.
type deb struct {
	path   string
	source string // for people
	sha256 string // expected; empty where it is not known
}

func fromDeb(ctx context.Context, s store.Store, work *store.Scratch, d deb, o Options) (Kernel, error) {
	in := work.Path(inName)
	if err := os.MkdirAll(filepath.Join(in, modulesName), 0o700); err != nil {
		return Kernel{}, err
	}
	control, sum, err := unpackDeb(ctx, d.path, in, o.Progress)
	if err != nil {
		return Kernel{}, err
	}
	if d.sha256 != "" && sum != d.sha256 {
		return Kernel{}, fmt.Errorf("hash of %s is %s, not %s as its archive says", d.source, sum, d.sha256)
	}
	return fromFiles(ctx, s, work, source{
		image:   filepath.Join(in, "vmlinuz"),
		modules: filepath.Join(in, modulesName),
		meta:    Meta{Package: control["Package"], Version: control["Version"], Source: d.source, SHA256: sum},
	}, o)
}

// unpackDeb unpacks a package and returns its control fields and its hash, from
// one reading of the file.
func unpackDeb(ctx context.Context, path, dir string, report progress.Func) (map[string]string, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	h := sha256.New()
	r := io.TeeReader(report.Reader("unpack kernel package", st.Size(), f), h)
	control, err := debFiles(ctx, r, dir)
	if err != nil {
		return nil, "", err
	}
	_, err = io.Copy(io.Discard, r) // the hash is of the whole file
	return control, hex.EncodeToString(h.Sum(nil)), err
}

// source is an unpacked kernel.
type source struct {
	image   string
	modules string
	meta    Meta // what is known; SHA256 is filled in where it is empty
}

func fromFiles(ctx context.Context, s store.Store, work *store.Scratch, src source, o Options) (Kernel, error) {
	o.Progress.Report(progress.Progress{Step: "make kernel", Total: 1})
	if err := os.MkdirAll(work.Path(outName, modulesName), 0o700); err != nil {
		return Kernel{}, err
	}
	image, err := readImage(src.image)
	if err != nil {
		return Kernel{}, err
	}
	m := src.meta
	if m.SHA256 == "" {
		m.SHA256 = hashOf(image).SHA256
	}
	vmlinux, err := extractVmlinux(image)
	if err != nil {
		return Kernel{}, fmt.Errorf("%s: %w", filepath.Base(src.image), err)
	}
	m.Vmlinux = hashOf(vmlinux)
	if err := store.WriteFile(work.Path(outName, vmlinuxName), vmlinux, 0o400); err != nil {
		return Kernel{}, err
	}
	if m.Modules, err = copyModules(src.modules, work.Path(outName, modulesName)); err != nil {
		return Kernel{}, err
	}
	if err := ctx.Err(); err != nil {
		return Kernel{}, err
	}
	k, err := install(s, work, m)
	if err == nil {
		o.Progress.Report(progress.Progress{Step: "make kernel", Done: 1, Total: 1})
	}
	return k, err
}

func readImage(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxImage+1))
	if err == nil && len(b) > maxImage {
		err = fmt.Errorf("larger than %d bytes", maxImage)
	}
	return b, err
}

// copyModules puts the modules that a guest needs from one directory into another.
func copyModules(from, to string) ([]Module, error) {
	t, err := scanModules(from)
	if err != nil {
		return nil, err
	}
	picked, err := t.pick()
	if err != nil {
		return nil, err
	}
	mods := make([]Module, len(picked))
	for i, p := range picked {
		p.File = hashOf(p.data)
		mods[i] = p.Module
		err = errors.Join(err, os.WriteFile(filepath.Join(to, p.Name+".ko"), p.data, 0o400))
	}
	return mods, errors.Join(err, store.SyncDir(to))
}

func hashOf(b []byte) File {
	sum := sha256.Sum256(b)
	return File{int64(len(b)), hex.EncodeToString(sum[:])}
}
