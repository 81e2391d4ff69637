package netstack

import (
	"container/list"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// lru is a map that forgets what was used longest ago. It is not safe for
// concurrent use.
type lru[K comparable, V any] struct {
	max     int
	order   *list.List // of entry, the last used first
	items   map[K]*list.Element
	dropped func(K, V) // called for what is forgotten; may be nil
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int, dropped func(K, V)) *lru[K, V] {
	return &lru[K, V]{max: limit, order: list.New(), items: map[K]*list.Element{}, dropped: dropped}
}

func (l *lru[K, V]) get(key K) (V, bool) {
	e, ok := l.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if e, ok := l.items[key]; ok {
		e.Value.(*entry[K, V]).value = value
		l.order.MoveToFront(e)
		return
	}
	l.items[key] = l.order.PushFront(&entry[K, V]{key, value})
	if l.order.Len() > l.max {
		last := l.order.Back()
		old := l.order.Remove(last).(*entry[K, V])
		delete(l.items, old.key)
		if l.dropped != nil {
			l.dropped(old.key, old.value)
		}
	}
}

// Bounds of what is remembered for one name, and told for one address.
const (
	maxAddresses = 64
	maxNames     = 16
)

// names remembers which addresses the guest was given for which names.
type names struct {
	mu    sync.Mutex
	now   func() time.Time
	grace time.Duration
	known *lru[string, *pinned]
	by    map[netip.Addr]map[*pinned]struct{}
}

// pinned is one name's addresses, and until when they are the name's.
type pinned struct {
	name  string
	asked time.Time
	until map[netip.Addr]time.Time
}

func newNames(limit int, grace time.Duration, now func() time.Time) *names {
	n := &names{now: now, grace: grace, by: map[netip.Addr]map[*pinned]struct{}{}}
	n.known = newLRU(limit, func(_ string, p *pinned) {
		for a := range p.until {
			n.unlink(a, p)
		}
	})
	return n
}

func (n *names) unlink(a netip.Addr, p *pinned) {
	delete(p.until, a)
	delete(n.by[a], p)
	if len(n.by[a]) == 0 {
		delete(n.by, a)
	}
}

// pin remembers an answer.
func (n *names) pin(name string, addrs []netip.Addr, ttl time.Duration) {
	n.keep(name, addrs, ttl+n.grace)
}

func (n *names) keep(name string, addrs []netip.Addr, life time.Duration) {
	if len(addrs) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.known.get(name)
	if !ok {
		p = &pinned{name: name, until: map[netip.Addr]time.Time{}}
		n.known.put(name, p)
	}
	p.asked = n.now()
	n.forget(p)
	until := p.asked.Add(life)
	for _, a := range addrs {
		if _, ok := p.until[a]; !ok && len(p.until) >= maxAddresses {
			break
		}
		p.until[a] = until
		if n.by[a] == nil {
			n.by[a] = map[*pinned]struct{}{}
		}
		n.by[a][p] = struct{}{}
	}
}

// forget takes out what is over.
func (n *names) forget(p *pinned) {
	for a, until := range p.until {
		if !n.now().Before(until) {
			n.unlink(a, p)
		}
	}
}

// of returns the names of an address, the last asked for first.
func (n *names) of(a netip.Addr) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*pinned
	for p := range n.by[a] {
		if n.now().Before(p.until[a]) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *pinned) int {
		if c := b.asked.Compare(a.asked); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	var out []string
	for _, p := range found[:min(len(found), maxNames)] {
		out = append(out, p.name)
	}
	return out
}
