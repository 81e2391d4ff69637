package netstack

import (
	"sync"
	"sync/atomic"
	"time"
)

// idleTimer calls something after a time in which nothing was seen.
type idleTimer struct {
	mu    sync.Mutex
	timer *time.Timer  // nil once stopped
	last  atomic.Int64 // Unix nanoseconds
}

func (i *idleTimer) seen() { i.last.Store(time.Now().UnixNano()) }

func (i *idleTimer) start(limit time.Duration, idle func()) {
	i.seen()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.timer = time.AfterFunc(limit, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		left := limit - time.Since(time.Unix(0, i.last.Load()))
		switch {
		case i.timer == nil:
		case left > 0:
			i.timer.Reset(left)
		default:
			idle()
		}
	})
}

func (i *idleTimer) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
		i.timer = nil
	}
}
