package hostfs

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
)

// partNodes is how many nodes go into one part of a state.
const partNodes = 4096

// save tells the guest, which has no request under way and is about to be saved, what
// its numbers stand for: what continues from its memory has another server.
func (s *Server) save() {
	s.work.Wait()
	for _, p := range s.nodes.export() {
		s.event(guest.FolderState, &p)
	}
	s.event(guest.FolderSaved, &guest.Empty{})
}

// export returns all that a new server has to know.
func (t *nodes) export() []guest.FolderPart {
	t.mu.Lock()
	defer t.mu.Unlock()
	parts := []guest.FolderPart{{Next: int64(t.next), Fresh: true}}
	for _, n := range t.byID {
		if n.id == rootID || n.parent == nil {
			continue // without a name it cannot be found again
		}
		p := &parts[len(parts)-1]
		if len(p.Nodes) >= partNodes {
			parts = append(parts, guest.FolderPart{})
			p = &parts[len(parts)-1]
		}
		p.Nodes = append(p.Nodes, guest.FolderNode{
			ID: int64(n.id), Parent: int64(n.parent.id), Name: n.name, Kind: int(n.kind), Lookups: int64(n.lookups),
		})
	}
	p := &parts[len(parts)-1]
	for _, h := range t.handles {
		p.Handles = append(p.Handles, guest.FolderHandle{ID: int64(h.id), Node: int64(h.node.id), Flags: h.flags})
	}
	return parts
}

// restore takes up what a guest kept, which may be anything: it holds names below the
// folder, and each is looked at as if it had been asked for.
func (s *Server) restore(resumed bool, parts []guest.FolderPart) {
	if resumed && s.nodes.count() > 1 {
		return // the guest has come back to the server that it had
	}
	s.watch.reset()
	t := s.nodes
	t.reset()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range parts {
		for _, g := range p.Nodes {
			t.adopt(g)
		}
	}
	for _, p := range parts {
		for _, g := range p.Nodes {
			t.settle(g)
		}
		for _, h := range p.Handles {
			t.reopened(h)
		}
		if p.Next > 0 && p.Next < math.MaxInt64/2 {
			t.next = max(t.next, uint64(p.Next))
		}
	}
}

// adopt makes a node that nothing but its number and kind is known of.
func (t *nodes) adopt(g guest.FolderNode) {
	id := uint64(g.ID)
	if g.ID <= rootID || g.ID >= math.MaxInt64/2 || t.byID[id] != nil || len(t.byID) >= maxNodes || !ordinary(uint32(g.Kind)) {
		return
	}
	t.byID[id] = &node{id: id, kind: uint32(g.Kind) & unix.S_IFMT, lookups: uint64(max(g.Lookups, 1)), watch: -1}
	t.next = max(t.next, id)
}

// settle gives an adopted node its place.
func (t *nodes) settle(g guest.FolderNode) {
	r := reader{b: append([]byte(g.Name), 0)}
	name := r.name()
	n, parent := t.byID[uint64(g.ID)], t.byID[uint64(g.Parent)]
	if r.bad || len(r.b) > 0 || n == nil || n.id == rootID || n.parent != nil || parent == nil || parent == n || parent.kind != unix.S_IFDIR {
		return
	}
	if t.kids[place{parent.id, name}] != nil {
		return
	}
	n.parent, n.name = parent, name
	parent.kids++
	t.kids[place{parent.id, name}] = n
}

// reopened gives back a handle; its file is opened when it is used.
func (t *nodes) reopened(g guest.FolderHandle) {
	n := t.byID[uint64(g.Node)]
	id := uint64(g.ID)
	if n == nil || id == 0 || g.ID >= math.MaxInt64/2 || len(t.handles) >= maxHandles || t.handles[id] != nil {
		return
	}
	h := &handle{id: id, node: n, flags: access(uint32(g.Flags))}
	t.handles[id] = h
	if n.handles == nil {
		n.handles = map[uint64]*handle{}
	}
	n.handles[id] = h
	t.next = max(t.next, id)
}

// at returns the node of a place.
func (t *nodes) at(dir *node, name string) (*node, unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.kids[place{dir.id, name}]; n != nil {
		return n, 0
	}
	return nil, unix.ESTALE
}

// shrink has the guest forget what it does not use.
func (s *Server) shrink() { s.event(guest.FolderShrink, &guest.Empty{}) }
