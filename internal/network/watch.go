package network

import (
	"sync"

	"github.com/smolvm/smolvm/api"
)

// maxEvents is how many events a watcher may lag behind. One that does is ended,
// and watches again.
const maxEvents = 256

type watcher struct {
	events chan api.FlowEvent
	once   sync.Once
}

func (w *watcher) end() { w.once.Do(func() { close(w.events) }) }

// Watch returns events of questions, beginning with those that wait already. The
// channel ends with stop, with the network, and for a reader who lags behind.
func (n *Network) Watch() (events <-chan api.FlowEvent, stop func()) {
	a := n.asks
	w := &watcher{events: make(chan api.FlowEvent, maxEvents)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		w.end()
		return w.events, func() {}
	}
	for _, q := range a.byKey {
		if q.told {
			w.events <- api.FlowEvent{Kind: api.FlowPending, Flow: q.shown}
		}
	}
	a.watchers[w] = struct{}{}
	return w.events, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watchers, w)
		w.end()
	}
}

// tell passes an event on. The lock is held.
func (a *asks) tell(e api.FlowEvent) {
	for w := range a.watchers {
		select {
		case w.events <- e:
		default:
			delete(a.watchers, w)
			w.end()
		}
	}
}
