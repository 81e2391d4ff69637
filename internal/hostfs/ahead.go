package hostfs

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
)

const (
	// aheadAfter is how many files of a directory are asked for one by one before the
	// guest is told to ask for all. A round trip is dear: with fewer than twenty files
	// to a request the third saves some already.
	aheadAfter = 2
	// aheadPause is how long it may take to do so before it is told again.
	aheadPause = 5 * time.Second
	// aheadMost bounds the directories beside one that are read with it, where it is
	// not the first: somebody walks the tree.
	aheadMost = 16
	// aheadKids bounds the search for them.
	aheadKids = 20_000
)

// asked counts the files of a directory that were asked for by their names.
type asked struct {
	n    int
	last time.Time // when the guest was told to ask for all, or did
	kids int       // directories in it of which the guest was told
}

// ahead counts that a file of a directory was asked for by its name.
func (s *Server) ahead(dir *node) {
	s.nodes.mu.Lock()
	dir.asked.n++
	var list []*node
	if dir.asked.n >= aheadAfter && time.Since(dir.asked.last) > aheadPause {
		list = s.nodes.ahead(dir)
	}
	s.nodes.mu.Unlock()
	for _, n := range list {
		if path, err := s.nodes.path(n); err == 0 {
			s.event(guest.FolderAhead, &guest.FolderPath{Path: path})
		}
	}
}

// ahead returns the directories to be read now that files of dir are asked for. Called
// with mu held.
func (t *nodes) ahead(dir *node) []*node {
	now := time.Now()
	list := []*node{dir}
	if p := dir.parent; p != nil {
		if p.asked.kids++; p.asked.kids > 1 && len(t.kids) <= aheadKids {
			for _, n := range t.kids {
				if n.parent == p && n.kind == unix.S_IFDIR && n.asked.last.IsZero() && n != dir && len(list) < aheadMost {
					list = append(list, n)
				}
			}
		}
	}
	for _, n := range list {
		n.asked.n, n.asked.last = 0, now
	}
	return list
}

// listed notes that the guest has asked for all files of a directory.
func (t *nodes) listed(dir *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir.asked.n, dir.asked.last = 0, time.Now()
}
