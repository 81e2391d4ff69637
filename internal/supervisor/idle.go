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
	shut  bool      // no user may come
	since time.Time // when the last user went
	timer *time.Timer
}

func newIdle(after time.Duration) *idle {
	i := &idle{after: after, fired: make(chan struct{}, 1)}
	i.arm()
	return i
}

// reset begins anew with another time.
func (i *idle) reset(after time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.after = after
	if i.users == 0 {
		i.arm()
	}
}

// begin marks a use, if users may come; the function it returns ends it.
func (i *idle) begin() (end func(), ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.shut {
		return nil, false
	}
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
	}), true
}

// bar keeps users from coming until allow.
func (i *idle) bar() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.shut = true
}

// allow lets users come again, and begins the time anew.
func (i *idle) allow() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.shut = false
	if i.users == 0 {
		i.arm()
	}
}

// quiet reports whether nobody uses the sandbox, for whoever received from fired: a
// user may have come at the same moment, or come and gone since. If so nobody may
// come until allow.
func (i *idle) quiet() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.shut = i.users == 0 && time.Since(i.since) >= i.after
	return i.shut
}

func (i *idle) arm() {
	i.since = time.Now()
	if i.timer != nil {
		i.timer.Stop()
	}
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
