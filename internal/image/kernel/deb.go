package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/image/decompress"
)

// Bounds of a Debian package that is read as a kernel's.
const (
	maxDebMembers = 16
	maxDebFiles   = 50_000
	maxDebBytes   = 2 << 30
	maxControl    = 1 << 20
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// ar reads the members of an ar archive, the outer format of a Debian package.
type ar struct {
	r    io.Reader
	body io.LimitedReader // the current member
	pad  int64            // bytes after it: members begin at even places
}

func newAr(r io.Reader) (*ar, error) {
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return nil, err
	}
	if string(magic[:]) != arMagic {
		return nil, errors.New("not a Debian package")
	}
	return &ar{r: r}, nil
}

// next goes to the next member and returns its name; then body is its content.
// io.EOF after the last.
func (a *ar) next() (string, error) {
	if _, err := io.CopyN(io.Discard, a.r, a.body.N+a.pad); err != nil {
		return "", noEOF(err)
	}
	a.body = io.LimitedReader{R: a.r}
	var h [arHeaderSize]byte
	if _, err := io.ReadFull(a.r, h[:]); err != nil {
		return "", err
	}
	if string(h[58:]) != "`\n" {
		return "", errors.New("damaged ar header")
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
	if err != nil || size < 0 {
		return "", errors.New("damaged size in ar header")
	}
	a.body.N, a.pad = size, size%2
	return strings.TrimRight(string(h[:16]), " /"), nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// debFiles unpacks boot/vmlinuz-* as dir/vmlinuz and all modules below
// dir/modules, and returns the package's control fields.
func debFiles(ctx context.Context, r io.Reader, dir string) (map[string]string, error) {
	a, err := newAr(r)
	if err != nil {
		return nil, err
	}
	var control map[string]string
	for range maxDebMembers {
		name, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch {
		case strings.HasPrefix(name, "control.tar"):
			control, err = readControl(&a.body)
		case strings.HasPrefix(name, "data.tar"):
			err = unpackKernel(ctx, &a.body, dir)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if control == nil {
		return nil, errors.New("the package has no control file")
	}
	return control, nil
}

// readControl returns the fields of a package's control file that stand on one line.
func readControl(r io.Reader) (map[string]string, error) {
	d, _, err := decompress.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	t := tar.NewReader(io.LimitReader(d, maxControl))
	for {
		h, err := t.Next()
		if err != nil {
			return nil, err
		}
		if path.Clean(h.Name) != "control" {
			continue
		}
		b, err := io.ReadAll(t)
		return parseControl(b), err
	}
}

func parseControl(b []byte) map[string]string {
	fields := map[string]string{}
	for line := range bytes.Lines(b) {
		name, value, ok := strings.Cut(strings.TrimRight(string(line), "\n"), ":")
		if ok && name != "" && name[0] != ' ' && name[0] != '\t' {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// unpackKernel writes the kernel and modules of a data archive below dir, under
// names made here: no name in the archive becomes a path.
func unpackKernel(ctx context.Context, r io.Reader, dir string) error {
	d, _, err := decompress.NewReader(r)
	if err != nil {
		return err
	}
	defer d.Close()
	t := tar.NewReader(io.LimitReader(d, maxDebBytes))
	for range maxDebFiles {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		dst, ok := debTarget(h, dir)
		if !ok {
			continue
		}
		if err := writeNew(dst, t, h.Size); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d files", maxDebFiles)
}

// debTarget returns where an entry of a data archive is wanted, if it is.
func debTarget(h *tar.Header, dir string) (string, bool) {
	if h.Typeflag != tar.TypeReg {
		return "", false
	}
	base := path.Base(path.Clean("/" + h.Name))
	_, isModule := moduleName(base)
	switch {
	case isModule && h.Size <= maxModule, base == "modules.builtin":
		return filepath.Join(dir, modulesName, base), true
	case strings.HasPrefix(base, "vmlinuz-") && h.Size <= maxImage:
		return filepath.Join(dir, "vmlinuz"), true
	}
	return "", false
}

func writeNew(dst string, r io.Reader, size int64) error {
	f, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, r, size)
	return errors.Join(err, f.Close())
}
