package dockerfile

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/decompress"
	"github.com/smolvm/smolvm/internal/image/rootfs"
)

// digestOf hashes what a step copies: names, kinds, modes and contents, but no
// times, which differ from one checkout to the next.
func digestOf(ctx context.Context, src []found) (string, error) {
	h := sha256.New()
	for _, f := range src {
		fmt.Fprintf(h, "%q %v\n", f.name, f.isDir)
		for _, i := range f.items {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%q %c %o %q %q %v\n", i.hdr.Name, i.hdr.Typeflag, i.hdr.Mode, i.hdr.Linkname, i.src, i.pack != "")
			if i.hdr.Typeflag != tar.TypeReg || i.src != "" {
				continue // src stands for content that was hashed elsewhere
			}
			if err := copyItem(h, i); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// copyItem writes an item's content: just the size that its header states.
func copyItem(w io.Writer, i item) error {
	r, err := i.open()
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, r, i.hdr.Size)
	if err == io.EOF {
		err = api.Errorf(api.Conflict, "%s became shorter while it was read", i.hdr.Name)
	}
	return errors.Join(err, r.Close())
}

// layerWriter writes the tar of a step.
type layerWriter struct {
	w     *tar.Writer
	root  *rootfs.Tree
	attrs attributes
	made  map[string]bool // directories of this layer
	bytes int64
}

// writeLayer writes items as a layer over a root: with the directories above
// them that are missing, and without those that are there, whose owner and mode
// would change.
func writeLayer(ctx context.Context, w io.Writer, root *rootfs.Tree, items []item, attrs attributes) error {
	l := layerWriter{w: tar.NewWriter(w), root: root, attrs: attrs, made: map[string]bool{"/": true}}
	for _, i := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.add(i); err != nil {
			return err
		}
	}
	return l.w.Close()
}

func (l *layerWriter) add(i item) error {
	if i.pack != "" {
		return l.unpack(i)
	}
	if i.hdr.Typeflag == tar.TypeDir {
		return l.dir(i.hdr.Name, &i.hdr)
	}
	if err := l.dir(path.Dir(i.hdr.Name), nil); err != nil {
		return err
	}
	h := i.hdr
	l.attrs.apply(&h)
	if err := l.header(&h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return copyItem(l.w, i)
}

// dir writes a directory that is not there, and those above it.
func (l *layerWriter) dir(p string, like *tar.Header) error {
	if l.made[p] {
		return nil
	}
	l.made[p] = true
	if e, ok := l.root.Stat(p); ok && e.IsDir() {
		return nil
	}
	if err := l.dir(path.Dir(p), nil); err != nil {
		return err
	}
	h := tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}
	if like != nil {
		h = *like
	}
	h.Name = p
	l.attrs.applyDir(&h, like != nil)
	return l.header(&h)
}

func (l *layerWriter) header(h *tar.Header) error {
	h.Name = strings.TrimPrefix(h.Name, "/")
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if h.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	h.Format = tar.FormatPAX
	return l.w.WriteHeader(h)
}

// unpack writes the entries of an archive below a directory.
func (l *layerWriter) unpack(i item) error {
	r, err := i.open()
	if err != nil {
		return err
	}
	defer r.Close()
	d, _, err := decompress.NewReader(r)
	if err != nil {
		return api.Errorf(api.Invalid, "%s: %w", i.pack, err)
	}
	defer d.Close()
	if err := l.dir(i.hdr.Name, nil); err != nil {
		return err
	}
	t := tar.NewReader(d)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return api.Errorf(api.Invalid, "%s: %w", i.pack, err)
		}
		if n == maxFiles {
			return api.Errorf(api.Exhausted, "%s: more than %d files", i.pack, maxFiles)
		}
		if err := l.member(i, h, t); err != nil {
			return err
		}
	}
}

// member writes one entry of an archive.
func (l *layerWriter) member(i item, h *tar.Header, r io.Reader) error {
	name, ok := below(h.Name)
	if !ok {
		return api.Errorf(api.Invalid, "%s: name %.200q leads upwards", i.pack, h.Name)
	}
	h.Name = path.Join(i.hdr.Name, name)
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeLink:
		target, ok := below(h.Linkname)
		if !ok {
			return api.Errorf(api.Invalid, "%s: hard link to %.200q leads upwards", i.pack, h.Linkname)
		}
		h.Linkname = path.Join(i.hdr.Name, target)[1:]
	case tar.TypeDir:
		return l.dir(h.Name, h)
	}
	if err := l.dir(path.Dir(h.Name), nil); err != nil {
		return err
	}
	l.attrs.apply(h)
	if err := l.header(h); err != nil {
		return err
	}
	_, err := io.Copy(l.w, r)
	return err
}

// below cleans the name of an archive's entry, and reports whether it stays inside.
func below(name string) (string, bool) {
	if strings.Contains("/"+name+"/", "/../") {
		return "", false
	}
	return path.Clean("/" + name)[1:], true
}
