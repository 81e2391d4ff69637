package hostfs

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	rootID = 1
	// maxNodes bounds the files that the guest's kernel may know at once, each of
	// which takes some 300 bytes here. Beyond shrinkAt it is asked to forget some.
	maxNodes = 512 << 10
	shrinkAt = maxNodes / 4 * 3
	// maxHandles bounds the files that a guest may have open.
	maxHandles = 4096
	maxPath    = 4095 // of the kernel, in bytes
)

// node is a file that the guest's kernel knows. Its fields are guarded by nodes.mu.
type node struct {
	id      uint64
	parent  *node // nil: it is the folder itself, or has no name any more
	name    string
	kind    uint32 // S_IFREG, S_IFDIR or S_IFLNK
	key     identity
	known   bool   // key is; of a node from before a resume it is found out at its first use
	lookups uint64 // that the kernel has not forgotten
	kids    int
	told    attr   // what the guest was told last
	watch   int32  // of inotify; negative: nothing tells of changes in it
	seq     uint64 // counts changes in it that were told of
	asked   asked
	handles map[uint64]*handle
}

// handle is a file that the guest has open for reading or writing.
type handle struct {
	id   uint64
	node *node
	file *os.File
	// flags is how it was opened: O_RDONLY, O_WRONLY or O_RDWR.
	flags int
}

// place is where a file is.
type place struct {
	parent uint64
	name   string
}

// nodes are the files that the guest's kernel knows.
type nodes struct {
	mu      sync.Mutex
	byID    map[uint64]*node
	byKey   map[identity]*node
	kids    map[place]*node
	handles map[uint64]*handle
	next    uint64
	// ours are names that the guest itself has taken away and nothing told of yet.
	ours    map[place]bool
	unwatch func(int32) // called with mu held; nil: there is nothing to watch
}

func newNodes() *nodes {
	t := &nodes{}
	t.clear()
	return t
}

// clear forgets all but the folder itself.
func (t *nodes) clear() {
	root := &node{id: rootID, kind: unix.S_IFDIR, known: true, lookups: 1, watch: -1}
	t.byID = map[uint64]*node{rootID: root}
	t.byKey, t.kids = map[identity]*node{}, map[place]*node{}
	t.handles, t.next = map[uint64]*handle{}, rootID
	t.ours = map[place]bool{}
}

// reset closes all open files and forgets everything.
func (t *nodes) reset() {
	t.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
}

func (t *nodes) get(id uint64) (*node, unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byID[id]; n != nil {
		return n, 0
	}
	return nil, unix.ESTALE
}

// path returns a node's path below the folder.
func (t *nodes) path(n *node) (string, unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	total := 0
	for ; n.id != rootID; n = n.parent {
		if n.parent == nil {
			return "", unix.ESTALE
		}
		names = append(names, n.name)
		// Ends also what a guest has made a ring of in a state that it gave back.
		if total += len(n.name) + 1; total > maxPath {
			return "", unix.ENAMETOOLONG
		}
	}
	b := make([]byte, 0, total)
	for i := len(names) - 1; i >= 0; i-- {
		b = append(b, names[i]...)
		if i > 0 {
			b = append(b, '/')
		}
	}
	return string(b), 0
}

// strangers returns the nodes on the way to n, and n, that are not known yet, the
// highest first.
func (t *nodes) strangers(n *node) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*node
	for depth := 0; n != nil && depth <= maxPath; n, depth = n.parent, depth+1 {
		if !n.known {
			list = append([]*node{n}, list...)
		}
	}
	return list
}

// identify notes what a node is, or compares it with what it was.
func (t *nodes) identify(n *node, key identity, kind uint32) unix.Errno {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.known {
		if n.key != key && n.id != rootID {
			return unix.ESTALE
		}
		return 0
	}
	if n.kind != kind {
		return unix.ESTALE
	}
	n.key, n.known = key, true
	if t.byKey[key] == nil {
		t.byKey[key] = n
	}
	return 0
}

// intern returns the node of a file that was found at a place, and counts that the
// guest's kernel knows it once more.
func (t *nodes) intern(parent *node, name string, key identity, a *attr) (*node, unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byKey[key]
	if old := t.kids[place{parent.id, name}]; n == nil && old != nil && !old.known && old.kind == a.mode&unix.S_IFMT {
		// From before a resume: it keeps its number, by which programs hold it.
		old.key, old.known = key, true
		t.byKey[key] = old
		n = old
	}
	if n != nil && n.kind != a.mode&unix.S_IFMT {
		delete(t.byKey, key) // the number was given to another file
		n = nil
	}
	if n == nil {
		if len(t.byID) >= maxNodes {
			return nil, unix.ENFILE
		}
		t.next++
		n = &node{id: t.next, kind: a.mode & unix.S_IFMT, key: key, known: true, watch: -1}
		t.byID[n.id], t.byKey[key] = n, n
	}
	if n.id == rootID {
		return nil, unix.ELOOP
	}
	n.lookups++
	n.told = *a
	t.move(n, parent, name)
	return n, 0
}

// move gives a node a place. Called with mu held.
func (t *nodes) move(n, parent *node, name string) {
	if n.parent == parent && n.name == name {
		return
	}
	parent.kids++ // first, so that it is not dropped
	if old := t.kids[place{parent.id, name}]; old != nil {
		t.unplace(old)
	}
	t.unplace(n)
	n.parent, n.name = parent, name
	t.kids[place{parent.id, name}] = n
}

// unplace takes a node's place from it. Called with mu held.
func (t *nodes) unplace(n *node) {
	if n.parent == nil {
		return
	}
	p := n.parent
	delete(t.kids, place{p.id, n.name})
	n.parent, n.name = nil, ""
	p.kids--
	t.drop(p)
	t.drop(n)
}

// removed notes that a place has no file any more.
func (t *nodes) removed(parent *node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := place{parent.id, name}
	t.own(at)
	if n := t.kids[at]; n != nil {
		t.unplace(n)
	}
}

// own notes that the guest has taken a name away. Called with mu held.
func (t *nodes) own(at place) {
	if len(t.ours) >= maxNews {
		clear(t.ours) // what nothing tells of: it is not watched
	}
	t.ours[at] = true
}

// renamed notes that a file has another place.
func (t *nodes) renamed(from *node, name string, to *node, as string, exchange bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own(place{from.id, name})
	n, other := t.kids[place{from.id, name}], t.kids[place{to.id, as}]
	if other != nil {
		t.unplace(other)
	}
	if n != nil {
		t.move(n, to, as)
	}
	if exchange && other != nil && t.byID[other.id] == other {
		t.move(other, from, name)
	}
}

// forget notes that the kernel has forgotten some lookups of a node.
func (t *nodes) forget(id, lookups uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil || id == rootID {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	t.drop(n)
}

// drop lets go of a node that nobody knows and nothing is below, and then perhaps of
// the one above. Called with mu held.
func (t *nodes) drop(n *node) {
	for n != nil && n.lookups == 0 && n.kids == 0 && len(n.handles) == 0 && n.id != rootID && t.byID[n.id] == n {
		delete(t.byID, n.id)
		if t.byKey[n.key] == n {
			delete(t.byKey, n.key)
		}
		if n.watch >= 0 && t.unwatch != nil {
			t.unwatch(n.watch)
		}
		p := n.parent
		if p != nil {
			delete(t.kids, place{p.id, n.name})
			n.parent = nil
			p.kids--
		}
		n = p
	}
}

func (t *nodes) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// opened gives an open file a handle.
func (t *nodes) opened(n *node, f *os.File, flags int) (*handle, unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.handles) >= maxHandles {
		return nil, unix.ENFILE
	}
	t.next++
	h := &handle{id: t.next, node: n, file: f, flags: flags}
	t.handles[h.id] = h
	if n.handles == nil {
		n.handles = map[uint64]*handle{}
	}
	n.handles[h.id] = h
	return h, 0
}

func (t *nodes) handle(id uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.handles[id]
}

// anyHandle returns an open file of a node.
func (t *nodes) anyHandle(n *node) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range n.handles {
		if h.file != nil {
			return h
		}
	}
	return nil
}

// released takes a handle away.
func (t *nodes) released(id uint64) {
	t.mu.Lock()
	h := t.handles[id]
	if h != nil {
		delete(t.handles, id)
		delete(h.node.handles, id)
		t.drop(h.node)
	}
	t.mu.Unlock()
	if h != nil && h.file != nil {
		h.file.Close()
	}
}

// close closes all open files.
func (t *nodes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.handles {
		if h.file != nil {
			h.file.Close()
		}
	}
	clear(t.handles)
}

// tell notes what the guest was told of a node.
func (t *nodes) tell(n *node, a attr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.told = a
}
