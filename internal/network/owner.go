package network

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/netstack"
)

const (
	// ownerTime bounds one look-up: a denial waits for it.
	ownerTime = 500 * time.Millisecond
	// askTime is that of one for a question, which waits for a person in any case.
	askTime = 3 * time.Second
	// Look-ups cost the guest time. What is denied or asked about is worth more of it
	// than what is allowed.
	ownersAtOnce = 4
	ownerHolds   = 2 * time.Second // for the same port: a resolver asks twice
	maxOwners    = 64
	// maxWaiting bounds the entries of a flow that wait for its process: each may have
	// a path of 64 KiB, and it is the guest that makes them wait.
	maxWaiting = 64
)

// owners looks processes up, within bounds.
type owners struct {
	find Owner
	busy chan struct{}

	mu            sync.Mutex
	denied, other bucket
	known         map[ownerKey]ownerFound

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type ownerKey struct {
	proto netstack.Proto
	src   netip.AddrPort
	port  uint16 // where it leads
}

type ownerFound struct {
	process *api.NetworkProcess
	until   time.Time
}

// bucket gives a token every so often, and saves some.
type bucket struct {
	every  time.Duration
	burst  float64
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.tokens = min(b.burst, b.tokens+float64(now.Sub(b.last))/float64(b.every))
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func newOwners(find Owner) *owners {
	now := time.Now()
	o := &owners{
		find: find, busy: make(chan struct{}, ownersAtOnce), known: map[ownerKey]ownerFound{},
		denied: bucket{every: 200 * time.Millisecond, burst: 20, tokens: 20, last: now},
		other:  bucket{every: 500 * time.Millisecond, burst: 10, tokens: 10, last: now},
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

// close ends what is under way, and waits for it.
func (o *owners) close() {
	o.cancel()
	o.wg.Wait()
}

// look returns the process of a flow, or nil where it is not known. Where b has no
// token the guest is not asked.
func (o *owners) look(ctx context.Context, f netstack.Flow, b *bucket) *api.NetworkProcess {
	if o.find == nil {
		return nil
	}
	key := ownerKey{f.Proto, f.Src, f.Dst.Port()}
	o.mu.Lock()
	now := time.Now()
	old, ok := o.known[key]
	if ok && now.Before(old.until) {
		o.mu.Unlock()
		return old.process
	}
	may := b.take(now)
	o.mu.Unlock()
	if !may {
		return nil
	}
	p := o.ask(ctx, f)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.known) >= maxOwners {
		clear(o.known)
	}
	o.known[key] = ownerFound{p, now.Add(ownerHolds)}
	return p
}

func (o *owners) ask(ctx context.Context, f netstack.Flow) *api.NetworkProcess {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.ctx, cancel)()
	select {
	case o.busy <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-o.busy }()
	p, err := o.find(ctx, f)
	if err != nil {
		return nil // gone meanwhile, or the guest has no time
	}
	return &api.NetworkProcess{PID: p.PID, Argv: shortArgv(p.Argv)}
}

// maxArgv bounds the command line of a process, in bytes with the separators.
const maxArgv = 4 << 10

// shortArgv cuts what the guest says of a command line, whose agent may not be ours
// any more, and shares nothing with it.
func shortArgv(argv []string) []string {
	var out []string
	left := maxArgv
	for _, a := range argv {
		if left <= 0 {
			break
		}
		cut := strings.ToValidUTF8(a[:min(len(a), left)], "?")
		out = append(out, strings.Clone(cut))
		left -= len(cut) + 1
	}
	return out
}

// findOwner returns the process that began the flow, or nil where it is not
// known. It is for what is denied or asked about.
func (f *flow) findOwner(ctx context.Context) *api.NetworkProcess {
	return f.findOwnerWithin(ctx, ownerTime)
}

func (f *flow) findOwnerWithin(ctx context.Context, limit time.Duration) *api.NetworkProcess {
	f.mu.Lock()
	p, asked := f.process, f.asked
	f.asked = true
	f.mu.Unlock()
	if p != nil || asked {
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p = f.n.owners.look(ctx, f.net, &f.n.owners.denied)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.process = p
	return p
}

// findOwnerMeanwhile finds the process of a flow that goes on, and holds its
// entries in the record back until then.
func (f *flow) findOwnerMeanwhile() {
	o := f.n.owners
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked || o.find == nil || o.ctx.Err() != nil {
		return
	}
	f.asked, f.holding = true, true
	o.wg.Go(func() {
		ctx, cancel := context.WithTimeout(o.ctx, ownerTime)
		defer cancel()
		p := o.look(ctx, f.net, &o.other)
		f.mu.Lock()
		held := f.held
		f.process, f.held, f.holding = p, nil, false
		for i := range held {
			held[i].Process = p
			f.n.record(held[i])
		}
		f.mu.Unlock()
	})
}

// write records an entry of the flow, after those before it.
func (f *flow) write(e api.NetworkEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holding && len(f.held) < maxWaiting {
		f.held = append(f.held, e)
		return
	}
	for _, held := range f.held {
		f.n.record(held)
	}
	f.held, f.holding = nil, false
	f.n.record(e)
}
