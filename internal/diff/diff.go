// Package diff tells two states of a guest's files apart and writes the difference
// down, as text, as a tar archive or as a patch for git.
//
//	changes := diff.Compare(before, after)   // trees of guest.Client.Tree
//	changes = diff.Settle(changes, open)     // drops files that hold the same
//	for c, err := range changes { ... }
//
//	skipped, err := diff.Patch(w, "/work", changes, open)
//
// Both states must stem from the same base image: a tree says only where a guest
// differs from that. The base image itself is the tree without entries. Nothing
// here believes what a guest says of its files: sizes are bounds, and names are
// quoted or refused.
package diff

import (
	"io"
	"iter"
	"path"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// File is what a path is in one state.
type File = guest.TreeFile

// Entry is one path of a tree.
type Entry = guest.TreeEntry

// Side names one of the two states.
type Side int

// The states.
const (
	Before Side = iota
	After
)

// Open opens a regular file of one state by its absolute path.
type Open func(s Side, path string) (io.ReadCloser, error)

// Changes are the changes of a comparison, in the order of guest.ComparePaths. An
// error is the last element.
type Changes = iter.Seq2[Change, error]

// Change is one path that differs.
type Change struct {
	Path   string // absolute
	Before File   // of type guest.TypeNone where there was none
	After  File   // the same
	// Unsure says that all but the times is the same, and what the file holds
	// perhaps too.
	Unsure bool
}

// What is what happened to a path.
type What string

// What happens to paths.
const (
	Added   What = "added"
	Changed What = "changed"
	Deleted What = "deleted"
)

// What says what happened to the path.
func (c Change) What() What {
	switch {
	case c.Before.Type == guest.TypeNone:
		return Added
	case c.After.Type == guest.TypeNone:
		return Deleted
	}
	return Changed
}

// Compare compares two trees of one base image. Both must be in order.
func Compare(before, after iter.Seq2[Entry, error]) Changes {
	return func(yield func(Change, error) bool) {
		m := newMerge(before, after)
		defer m.stop()
		for {
			c, more, err := m.next()
			if err != nil {
				yield(Change{}, err)
				return
			}
			if !more {
				return
			}
			if keep(&c) && !yield(c, nil) {
				return
			}
		}
	}
}

// merge walks two trees side by side.
type merge struct {
	heads [2]head
	last  string
}

// head is the next entry of one tree.
type head struct {
	pull func() (Entry, error, bool)
	end  func()
	e    Entry
	ok   bool // e is there
}

func newMerge(before, after iter.Seq2[Entry, error]) *merge {
	m := &merge{}
	for i, seq := range []iter.Seq2[Entry, error]{before, after} {
		m.heads[i].pull, m.heads[i].end = iter.Pull2(seq)
	}
	return m
}

func (m *merge) stop() {
	for _, h := range m.heads {
		h.end()
	}
}

// next returns the next path of either tree, with what it is in both.
func (m *merge) next() (c Change, more bool, err error) {
	for i := range m.heads {
		if err := m.heads[i].fill(); err != nil {
			return c, false, err
		}
	}
	a, b := &m.heads[0], &m.heads[1]
	if !a.ok && !b.ok {
		return c, false, nil
	}
	order := 0
	if a.ok && b.ok {
		order = guest.ComparePaths(a.e.Path, b.e.Path)
	}
	switch {
	case !b.ok || order < 0:
		c, a.ok = Change{Path: a.e.Path, Before: a.e.File, After: a.e.Base}, false
	case !a.ok || order > 0:
		c, b.ok = Change{Path: b.e.Path, Before: b.e.Base, After: b.e.File}, false
	default:
		c, a.ok, b.ok = Change{Path: a.e.Path, Before: a.e.File, After: b.e.File}, false, false
	}
	if m.last != "" && guest.ComparePaths(m.last, c.Path) >= 0 {
		return c, false, api.Errorf(api.Internal, "compare files: %q comes after %q", c.Path, m.last)
	}
	m.last = c.Path
	return c, true, nil
}

func (h *head) fill() error {
	if h.ok {
		return nil
	}
	e, err, ok := h.pull()
	h.e, h.ok = e, ok
	return err
}

// keep reports whether a path differs, and sets Unsure.
func keep(c *Change) bool {
	a, b := c.Before, c.After
	if a.Type != b.Type {
		return true
	}
	if a.Type == guest.TypeNone {
		return false
	}
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Size != b.Size || a.Target != b.Target {
		return true
	}
	if a.Type != guest.TypeFile || a.Size == 0 {
		return false
	}
	// The same inode and change time: the same file, of one disk and its copies.
	c.Unsure = a.Ino == 0 || a.Ino != b.Ino || a.CTimeNS != b.CTimeNS
	return c.Unsure
}

// Settle drops the unsure changes of files that hold the same, by reading them.
func Settle(changes Changes, open Open) Changes {
	return func(yield func(Change, error) bool) {
		for c, err := range changes {
			if err == nil && c.Unsure {
				var same bool
				if same, err = sameContent(c, open); same {
					continue
				}
				c.Unsure = false
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// within returns the name of a path relative to a directory; ok is false for the
// directory itself and for what is outside.
func within(dir, p string) (name string, ok bool) {
	dir = path.Clean("/" + dir)
	if dir == "/" {
		return p[1:], p != "/"
	}
	return strings.CutPrefix(p, dir+"/")
}

// identity are the files by which smolvm gives a sandbox its identity.
var identity = map[string]bool{
	"/etc/hostname": true, "/etc/hosts": true, "/etc/resolv.conf": true, "/etc/machine-id": true,
	"/var/lib/dbus/machine-id": true,
}

// Identity reports whether a path is one that smolvm writes itself to give a
// sandbox its identity, or a mount point that it makes: no work of the guest's.
func Identity(p string) bool {
	switch p {
	case "/dev", "/proc", "/sys", "/run":
		return true
	}
	return identity[p] || strings.HasPrefix(p, "/etc/ssh/ssh_host_")
}
