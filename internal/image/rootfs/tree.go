// Package rootfs flattens the layers of an image into one root and writes it as
// a read-only ext4 file.
//
//	stats, err := rootfs.WriteExt4(ctx, layers, path, rootfs.Limits{})
//
// Layers are tar streams as OCI's image specification says: later ones add to,
// replace and, by whiteouts, remove what earlier ones hold. Ownership, modes,
// times, hard links, device nodes and extended attributes come out as they went
// in. The same layers give the same bytes.
//
// Names in a layer never touch the host: they are resolved in a tree in memory,
// where a symbolic link cannot lead outside of the root because nothing is there.
package rootfs

import (
	"archive/tar"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Limits bound what a stranger's layers can make of us. Zero fields mean the defaults.
type Limits struct {
	Bytes   int64 // of all layers unpacked; default DefaultBytes
	Entries int64 // of all layers; default DefaultEntries
}

// Defaults of Limits, and what ext4 and Linux allow.
const (
	DefaultBytes   = 64 << 30
	DefaultEntries = 4_000_000

	maxName    = 255  // bytes of one name
	maxPath    = 4095 // bytes of a path or of a link's target
	maxHops    = 40   // symbolic links followed for one path, as in Linux
	maxSubdirs = 64_998
	maxXattrs  = 3 << 10 // bytes of one file's attributes: they share one block
)

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	if l.Entries == 0 {
		l.Entries = DefaultEntries
	}
	return l
}

// place is where an entry stands: which layer, and which entry of it.
type place struct {
	layer int
	entry int64
}

// node is a file, which may have several names.
type node struct {
	typ          byte // one of tar's
	mode         int64
	uid, gid     int
	mtime        time.Time
	major, minor int64
	target       string // of a symbolic link
	size         int64
	xattrs       map[string]string
	from         place // of the entry that holds the content
	children     map[string]*child
	subdirs      int
}

// child is a name in a directory, and the layer that put it there.
type child struct {
	*node
	layer int
}

func (n *node) isDir() bool { return n.typ == tar.TypeDir }

func (n *node) names() []string { return slices.Sorted(maps.Keys(n.children)) }

func newDir() *node {
	return &node{typ: tar.TypeDir, mode: 0o755, children: map[string]*child{}}
}

// put sets a name in a directory; what had it before is gone.
func (n *node) put(name string, c *child) error {
	n.remove(name)
	if c.isDir() {
		// A directory's link count has 16 bits on disk.
		if n.subdirs++; n.subdirs > maxSubdirs {
			return api.Errorf(api.Invalid, "more than %d directories in one", maxSubdirs)
		}
	}
	n.children[name] = c
	return nil
}

func (n *node) remove(name string) {
	c, ok := n.children[name]
	if !ok {
		return
	}
	if c.isDir() {
		n.subdirs--
	}
	delete(n.children, name)
}

// prune removes what layers before the given one put into a directory.
func (n *node) prune(layer int) {
	for name, c := range n.children {
		if c.isDir() {
			c.prune(layer)
		}
		if c.layer < layer && (!c.isDir() || len(c.children) == 0) {
			n.remove(name)
		}
	}
}

// splitName turns a name of a tar into its parts. A leading slash means the
// root of the image; a part ".." is refused, for no honest layer has one.
func splitName(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, api.Errorf(api.Invalid, "name of %d bytes: longer than %d", len(name), maxPath)
	}
	if strings.ContainsRune(name, 0) {
		return nil, api.Errorf(api.Invalid, "name %q holds a zero byte", name)
	}
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch {
		case p == "" || p == ".":
			continue
		case p == "..":
			return nil, api.Errorf(api.Invalid, "name %q leads upwards", name)
		case len(p) > maxName:
			return nil, api.Errorf(api.Invalid, "name part of %d bytes: longer than %d", len(p), maxName)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// walker resolves paths in the tree as Linux does in a root of its own.
type walker struct {
	root  *node
	layer int // that makes what is missing
	hops  int
}

// dir returns the directory of the given parts. Missing ones are made.
func (w *walker) dir(parts []string) (*node, error) {
	at := []*node{w.root} // the way down, for ".." in links
	for len(parts) > 0 {
		p := parts[0]
		parts = parts[1:]
		cur := at[len(at)-1]
		if p == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		c, ok := cur.children[p]
		if !ok {
			c = &child{newDir(), w.layer}
			if err := cur.put(p, c); err != nil {
				return nil, err
			}
		}
		switch c.typ {
		case tar.TypeDir:
			at = append(at, c.node)
		case tar.TypeSymlink:
			if w.hops++; w.hops > maxHops {
				return nil, api.Errorf(api.Invalid, "too many symbolic links at %q", p)
			}
			if path.IsAbs(c.target) {
				at = at[:1]
			}
			parts = append(linkParts(c.target), parts...)
		default:
			return nil, api.Errorf(api.Invalid, "%q is not a directory", p)
		}
		if len(at)+len(parts) > maxPath {
			return nil, api.Errorf(api.Invalid, "path too deep at %q", p)
		}
	}
	return at[len(at)-1], nil
}

// linkParts splits a link's target; ".." stays, to be followed.
func linkParts(target string) []string {
	return slices.DeleteFunc(strings.Split(target, "/"), func(p string) bool { return p == "" || p == "." })
}
