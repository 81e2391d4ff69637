package rootfs

import (
	"archive/tar"
	"context"
	"io"
	"path"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Tree is the root that layers make, in memory and without contents, for those
// who must know what is where before they add a layer.
type Tree struct {
	b      *builder
	layers []Layer
}

// NewTree returns an empty root.
func NewTree(l Limits) *Tree { return &Tree{b: newBuilder(l)} }

// Add lays a layer over the root. After an error the tree is of no use.
func (t *Tree) Add(ctx context.Context, l Layer) error {
	if err := t.b.add(ctx, len(t.layers), l); err != nil {
		return api.Errorf(classOf(err), "layer %d: %w", len(t.layers)+1, err)
	}
	t.layers = append(t.layers, l)
	return nil
}

// Entry is a file of a Tree.
type Entry struct {
	Path     string // absolute, without symbolic links but perhaps the last part
	Type     byte   // one of archive/tar's
	Mode     int64  // permission bits, with setuid, setgid and sticky
	UID, GID int
	ModTime  time.Time
	Target   string // of a symbolic link
	Size     int64

	node *node
}

// IsDir reports whether the entry is a directory.
func (e Entry) IsDir() bool { return e.Type == tar.TypeDir }

// Header returns a tar header for the entry under another name, with all that
// is known of it but device numbers.
func (e Entry) Header(name string) *tar.Header {
	h := header(e.node, name)
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	return h
}

func entryOf(p string, n *node) Entry {
	return Entry{p, n.typ, n.mode, n.uid, n.gid, n.mtime, n.target, n.size, n}
}

// Resolve returns where a path leads when all symbolic links are followed, as an
// absolute path. What is not there leads to itself. Class Invalid for a loop.
func (t *Tree) Resolve(name string) (string, error) {
	p, _, err := t.follow(name)
	return p, err
}

// Stat returns the file that a path leads to, and whether there is one.
func (t *Tree) Stat(name string) (Entry, bool) {
	p, n, err := t.follow(name)
	if err != nil || n == nil {
		return Entry{}, false
	}
	return entryOf(p, n), true
}

// follow resolves a path without making anything. The node is nil where the
// path leads to nothing.
func (t *Tree) follow(name string) (string, *node, error) {
	at := []*node{t.b.root}
	var names []string
	parts := linkParts(name)
	for hops := 0; len(parts) > 0; {
		p := parts[0]
		parts = parts[1:]
		if p == ".." {
			names, at = names[:max(0, len(names)-1)], at[:max(1, len(at)-1)]
			continue
		}
		var next *node
		if cur := at[len(at)-1]; cur != nil && cur.isDir() {
			if c, ok := cur.children[p]; ok {
				next = c.node
			}
		}
		if next != nil && next.typ == tar.TypeSymlink {
			if hops++; hops > maxHops || len(parts) > maxPath {
				return "", nil, api.Errorf(api.Invalid, "too many symbolic links in %.200q", name)
			}
			if path.IsAbs(next.target) {
				names, at = nil, at[:1]
			}
			parts = append(linkParts(next.target), parts...)
			continue
		}
		names, at = append(names, p), append(at, next)
	}
	return "/" + strings.Join(names, "/"), at[len(at)-1], nil
}

// Walk calls f for a file and, for a directory, for all below it, in order of
// name and each directory before its content. rel is relative to the first;
// for the first itself it is ".".
func (t *Tree) Walk(e Entry, f func(rel string, e Entry) error) error {
	return walk(e, ".", f)
}

func walk(e Entry, rel string, f func(string, Entry) error) error {
	if err := f(rel, e); err != nil {
		return err
	}
	for _, name := range e.node.names() {
		c := entryOf(path.Join(e.Path, name), e.node.children[name].node)
		if err := walk(c, path.Join(rel, name), f); err != nil {
			return err
		}
	}
	return nil
}

// Read calls f with the content of the given regular files, in the order in which
// the layers hold them. The files of one call have that content in common: they
// are hard links of one another, and are given by their place in the list.
func (t *Tree) Read(ctx context.Context, files []Entry, f func(same []int, body io.Reader) error) error {
	want := map[place][]int{}
	for i, e := range files {
		if e.Type == tar.TypeReg {
			want[e.node.from] = append(want[e.node.from], i)
		}
	}
	for layer, l := range t.layers {
		if err := readLayer(ctx, layer, l, want, f); err != nil {
			return api.Errorf(classOf(err), "layer %d: %w", layer+1, err)
		}
	}
	return nil
}

func readLayer(ctx context.Context, layer int, l Layer, want map[place][]int, f func([]int, io.Reader) error) error {
	r, err := l.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return eachEntry(ctx, r, func(entry int64, _ *tar.Header, body io.Reader) error {
		if same := want[place{layer, entry}]; len(same) > 0 {
			return f(same, body)
		}
		return nil
	})
}
