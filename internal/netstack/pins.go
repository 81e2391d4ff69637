package netstack

import (
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// Pin is an address that the guest was given for a name. It says what the guest
// may still believe, not that policy allows it: that is asked when it is used.
type Pin struct {
	Name string     `json:"name"` // lower case, without the last dot
	Addr netip.Addr `json:"addr"`
	// Left is for how long the address is the name's yet. It does not run while
	// the guest is saved, as the guest's own clock does not.
	Left time.Duration `json:"left"`
}

// Names returns the pins of all names, those not asked for longest first. It may
// be called after Close.
func (n *Network) Names() []Pin { return n.dns.names.save() }

func (n *names) save() []Pin {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pins []Pin
	now := n.now()
	for e := n.known.order.Back(); e != nil; e = e.Prev() {
		pins = append(pins, pinsOf(e, now)...)
	}
	return pins
}

// pinsOf returns what is left of a name's addresses, in their order.
func pinsOf(e *list.Element, now time.Time) []Pin {
	p := e.Value.(*entry[string, *pinned]).value
	var pins []Pin
	for a, until := range p.until {
		if left := until.Sub(now); left > 0 {
			pins = append(pins, Pin{Name: p.name, Addr: a, Left: left})
		}
	}
	slices.SortFunc(pins, func(a, b Pin) int { return a.Addr.Compare(b.Addr) })
	return pins
}

// restore remembers pins again. Those that no answer can have made are left out:
// they come from a file.
func (n *names) restore(pins []Pin) {
	for _, p := range pins {
		if plain(p.Name) && p.Name == canonical(p.Name) && p.Addr.IsValid() && !p.Addr.Is4In6() && p.Left > 0 {
			n.keep(p.Name, []netip.Addr{p.Addr}, min(p.Left, maxTTL+n.grace))
		}
	}
}
