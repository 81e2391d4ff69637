package supervisor

import (
	"sync"
	"time"
)

// idle notices that nobody has used the sandbox for a while. A sandbox is in use
// as long as a stream is open.
type idle struct {
	after time.Duration // zero: never
	fired chan struct{} // one value when the time is over
	mu    sync.Mutex
	users int
	timer *time.Timer
}

func newIdle(after time.Duration) *idle {
	i := &idle{after: after, fired: make(chan struct{}, 1)}
	i.arm()
	return i
}

// begin marks a use; the function it returns ends it.
func (i *idle) begin() (end func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.users++
	if i.timer != nil {
		i.timer.Stop()
	}
	return sync.OnceFunc(func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.users--
		if i.users == 0 {
			i.arm()
		}
	})
}

// quiet reports whether nobody uses the sandbox, for whoever received from
// fired: a user may have come at the same moment.
func (i *idle) quiet() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.users == 0
}

func (i *idle) arm() {
	if i.after <= 0 {
		return
	}
	i.timer = time.AfterFunc(i.after, func() {
		select {
		case i.fired <- struct{}{}:
		default:
		}
	})
}

func (i *idle) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
	}
}
