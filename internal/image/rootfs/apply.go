package rootfs

import (
	"archive/tar"
	"context"
	"io"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// Layer is one layer of an image: Open returns its tar stream, not compressed,
// and may be called more than once.
type Layer struct {
	Open func() (io.ReadCloser, error)
}

// Names by which a layer removes what earlier ones hold.
const (
	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh." // a directory's own marks
	whiteoutOpaque = ".wh..wh..opq"
)

const xattrPrefix = "SCHILY.xattr."

// overlayXattr begins the names that a kernel's overlay keeps for itself; an
// image must not speak to the overlay that it is a part of.
const overlayXattr = "trusted.overlay."

// builder makes the tree.
type builder struct {
	root   *node
	limits Limits
	bytes  int64
	count  int64
}

func newBuilder(l Limits) *builder { return &builder{root: newDir(), limits: l.withDefaults()} }

// add lays one layer over the tree.
func (b *builder) add(ctx context.Context, layer int, l Layer) error {
	r, err := l.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	err = eachEntry(ctx, r, func(entry int64, h *tar.Header, _ io.Reader) error {
		if err := b.entry(place{layer, entry}, h); err != nil {
			return api.Errorf(api.ClassOf(err), "entry %.200q: %w", h.Name, err)
		}
		return nil
	})
	return err
}

// eachEntry calls f for every entry of a tar, counted from 0, and reads the
// stream to its end, so that a reader that checks a hash has seen all of it.
func eachEntry(ctx context.Context, r io.Reader, f func(int64, *tar.Header, io.Reader) error) error {
	t := tar.NewReader(r)
	for i := int64(0); ; i++ {
		h, err := t.Next()
		if err == io.EOF {
			return drain(r)
		}
		if err != nil {
			return api.Errorf(api.Invalid, "read tar: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(i, h, t); err != nil {
			return err
		}
	}
}

// maxTrailer bounds what may follow the end of a tar: tools fill up to some
// kilobytes, and a compressed stream of zeros could go on for ever.
const maxTrailer = 16 << 20

func drain(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxTrailer+1))
	if err == nil && n > maxTrailer {
		err = api.Errorf(api.Invalid, "more than %d bytes after the end of the tar", maxTrailer)
	}
	return err
}

func (b *builder) entry(at place, h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if b.count++; b.count > b.limits.Entries {
		return api.Errorf(api.Exhausted, "more than %d entries", b.limits.Entries)
	}
	if h.Size < 0 || h.Size > b.limits.Bytes-b.bytes {
		return api.Errorf(api.Exhausted, "more than %d bytes unpacked", b.limits.Bytes)
	}
	b.bytes += h.Size
	parts, err := splitName(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return b.setRoot(h)
	}
	if slices.ContainsFunc(parts, isMeta) && parts[len(parts)-1] != whiteoutOpaque {
		return nil
	}
	name := parts[len(parts)-1]
	w := walker{root: b.root, layer: at.layer}
	dir, err := w.dir(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, whiteout) {
		return remove(dir, name, at.layer)
	}
	return b.place(dir, name, at, h)
}

// isMeta reports whether a name is one under which AUFS kept its own files.
func isMeta(part string) bool { return strings.HasPrefix(part, whiteoutMeta) }

func (b *builder) setRoot(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return api.Errorf(api.Invalid, "the root is not a directory")
	}
	n, err := makeNode(place{}, h)
	if err != nil {
		return err
	}
	n.children, n.subdirs = b.root.children, b.root.subdirs
	*b.root = *n
	return nil
}

// remove does what a whiteout says. Only what earlier layers hold is removed:
// a layer may hide the old and bring the new, in any order.
func remove(dir *node, name string, layer int) error {
	if name == whiteoutOpaque {
		dir.prune(layer)
		return nil
	}
	name = strings.TrimPrefix(name, whiteout)
	if name == "" || name == "." || name == ".." {
		return api.Errorf(api.Invalid, "whiteout of nothing")
	}
	c, ok := dir.children[name]
	if !ok {
		return nil
	}
	if c.isDir() {
		c.prune(layer)
	}
	if c.layer < layer && (!c.isDir() || len(c.children) == 0) {
		dir.remove(name)
	}
	return nil
}

func (b *builder) place(dir *node, name string, at place, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		n, err := b.linkTarget(h.Linkname, at.layer)
		if err != nil {
			return err
		}
		return dir.put(name, &child{n, at.layer})
	}
	n, err := makeNode(at, h)
	if err != nil {
		return err
	}
	old, ok := dir.children[name]
	if ok && old.isDir() && n.isDir() {
		n.children, n.subdirs = old.children, old.subdirs
	}
	return dir.put(name, &child{n, at.layer})
}

// linkTarget finds the file that a hard link names.
func (b *builder) linkTarget(name string, layer int) (*node, error) {
	parts, err := splitName(name)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return nil, api.Errorf(api.Invalid, "hard link to the root")
	}
	w := walker{root: b.root, layer: layer}
	dir, err := w.dir(parts[:len(parts)-1])
	if err != nil {
		return nil, err
	}
	c, ok := dir.children[parts[len(parts)-1]]
	if !ok {
		return nil, api.Errorf(api.Invalid, "hard link to %.200q, which is not there", name)
	}
	if c.isDir() {
		return nil, api.Errorf(api.Invalid, "hard link to the directory %.200q", name)
	}
	return c.node, nil
}

func makeNode(at place, h *tar.Header) (*node, error) {
	n := &node{
		typ: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, mtime: h.ModTime,
		major: h.Devmajor, minor: h.Devminor, from: at,
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.typ, n.size = tar.TypeReg, h.Size
	case tar.TypeSymlink:
		n.target = h.Linkname
		if n.target == "" || len(n.target) > maxPath || strings.ContainsRune(n.target, 0) {
			return nil, api.Errorf(api.Invalid, "symbolic link with a target of %d bytes", len(n.target))
		}
	case tar.TypeDir:
		n.children = map[string]*child{}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return nil, api.Errorf(api.Invalid, "unknown type %q", h.Typeflag)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxID || int64(h.Gid) > maxID {
		return nil, api.Errorf(api.Invalid, "owner %d:%d is out of range", h.Uid, h.Gid)
	}
	var err error
	n.xattrs, err = xattrsOf(h)
	return n, err
}

// maxID is the largest user id that Linux has; the one above means "none".
const maxID = 1<<32 - 2

// xattrsOf returns the extended attributes of an entry that a guest is to have.
func xattrsOf(h *tar.Header) (map[string]string, error) {
	var xs map[string]string
	size := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || strings.HasPrefix(name, overlayXattr) {
			continue
		}
		// Others than these the kernel makes, or keeps in a form of its own.
		if !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "trusted.") {
			continue
		}
		size += len(name) + len(value)
		if len(name) > maxName || size > maxXattrs {
			return nil, api.Errorf(api.Invalid, "extended attributes of more than %d bytes", maxXattrs)
		}
		if xs == nil {
			xs = map[string]string{}
		}
		xs[name] = value
	}
	return xs, nil
}
