package guest

import (
	"context"
	"io"
	"iter"
	"path"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Tree asks for the files in which a guest differs from its base image.
type Tree struct {
	Path string // at it and below it; empty: everywhere
}

// Types of file in a TreeFile.
const (
	TypeNone    = "" // there is no such file
	TypeFile    = "file"
	TypeDir     = "dir"
	TypeSymlink = "symlink"
	TypeOther   = "other" // a device, pipe or socket
)

// TreeFile is what a path is, in the guest or in its base image.
type TreeFile struct {
	Type     string
	Mode     int // as in chmod(2)
	UID, GID int
	Size     int64 // of a file, in bytes
	MTimeNS  int64
	// CTimeNS and Ino, of the guest's file alone: a file of one disk and its copies
	// with the same of both holds the same.
	CTimeNS int64
	Ino     int64
	Target  string // of a symbolic link; of others what they are, such as "c 1:3"
}

// TreeEntry is one path that the writable layer changes or hides. Each path that
// a removed or replaced directory of the base image had has an entry of its own.
type TreeEntry struct {
	Path string // absolute and clean
	File TreeFile
	Base TreeFile
}

// TreePart is a part of the reply to OpTree. The end of the stream ends the tree.
type TreePart struct{ Entries []TreeEntry }

// MaxTree bounds the entries of a tree.
const MaxTree = 1 << 21

// ComparePaths orders paths as trees are: a directory, then what is in it, by
// name in bytes.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		switch {
		case a[i] == b[i]:
			continue
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// Tree lists the files in which the guest differs from its base image, in the
// order of ComparePaths. An error ends the list. The guest's files may change
// meanwhile; one that is saved or frozen is consistent.
func (c Client) Tree(ctx context.Context, t Tree) iter.Seq2[TreeEntry, error] {
	return func(yield func(TreeEntry, error) bool) {
		st, err := c.open(ctx, OpTree, &t)
		if err != nil {
			yield(TreeEntry{}, err)
			return
		}
		defer st.Close()
		r := treeReader{st: st}
		for {
			part, err := r.part()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(TreeEntry{}, err)
				return
			}
			for _, e := range part {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// treeReader reads a tree and believes none of it.
type treeReader struct {
	st   *bound
	last string
	n    int
}

func (r *treeReader) part() ([]TreeEntry, error) {
	m, err := r.st.recv()
	if err != nil {
		return nil, err
	}
	var part TreePart
	if err := unmarshal(m.Payload, &part); err != nil {
		return nil, err
	}
	if r.n += len(part.Entries); r.n > MaxTree {
		return nil, api.Errorf(api.Exhausted, "list the changed files: there are more than %d", MaxTree)
	}
	for _, e := range part.Entries {
		if !strings.HasPrefix(e.Path, "/") || path.Clean(e.Path) != e.Path || strings.IndexByte(e.Path, 0) >= 0 {
			return nil, api.Errorf(api.Internal, "list the changed files: the guest sent the path %q", e.Path)
		}
		if r.last != "" && ComparePaths(r.last, e.Path) >= 0 {
			return nil, api.Errorf(api.Internal, "list the changed files: the guest sent %q after %q", e.Path, r.last)
		}
		r.last = e.Path
	}
	return part.Entries, nil
}

func (m *Tree) Wire(c *wire.Coder) { c.String(&m.Path) }

func (m *TreeFile) Wire(c *wire.Coder) {
	c.String(&m.Type)
	c.Int(&m.Mode)
	c.Int(&m.UID)
	c.Int(&m.GID)
	c.Int64(&m.Size)
	c.Int64(&m.MTimeNS)
	c.Int64(&m.CTimeNS)
	c.Int64(&m.Ino)
	c.String(&m.Target)
}

func (m *TreeEntry) Wire(c *wire.Coder) {
	c.String(&m.Path)
	c.Sub(&m.File)
	c.Sub(&m.Base)
}

func (m *TreePart) Wire(c *wire.Coder) { wire.List(c, &m.Entries) }
