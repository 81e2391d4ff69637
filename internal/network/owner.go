package network

import (
	"context"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
)

const (
	// ownerTime bounds one look-up: a denial waits for it.
	ownerTime = 500 * time.Millisecond
	// Look-ups cost the guest time. A guest that is denied in a loop gets a few.
	ownersAtOnce = 4
	ownersEvery  = 200 * time.Millisecond
	ownersBurst  = 20
)

// owners looks processes up, within bounds.
type owners struct {
	find Owner
	busy chan struct{}

	mu     sync.Mutex
	tokens float64
	last   time.Time

	ctx    context.Context // ends with close
	cancel context.CancelFunc
}

func newOwners(find Owner) *owners {
	o := &owners{find: find, busy: make(chan struct{}, ownersAtOnce), tokens: ownersBurst, last: time.Now()}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

func (o *owners) close() { o.cancel() }

// may takes a token, if there is one.
func (o *owners) may() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	o.tokens = min(ownersBurst, o.tokens+float64(now.Sub(o.last))/float64(ownersEvery))
	o.last = now
	if o.tokens < 1 {
		return false
	}
	o.tokens--
	return true
}

// findOwner returns the process that began the flow, or nil where it is not
// known. It asks the guest once.
func (f *flow) findOwner(ctx context.Context) *api.NetworkProcess {
	o := f.n.owners
	f.mu.Lock()
	known := f.process
	asked := f.asked
	f.asked = true
	f.mu.Unlock()
	if known != nil || asked || o.find == nil || !o.may() {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, ownerTime)
	defer cancel()
	defer context.AfterFunc(o.ctx, cancel)()
	select {
	case o.busy <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-o.busy }()
	p, err := o.find(ctx, f.net)
	if err != nil {
		return nil // gone meanwhile, or the guest has no time
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.process = &p
	return f.process
}
