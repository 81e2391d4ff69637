package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
)

// headerReplayed says in an answer that it is the one of an earlier request.
const headerReplayed = "Idempotency-Replayed"

// Bounds of what is remembered of requests with an Idempotency-Key.
const (
	maxReplays = 10000
	replayTime = 24 * time.Hour
)

// replays remembers what requests with an Idempotency-Key have made, as long as this
// server lives.
type replays struct {
	mu   sync.Mutex
	made map[string]*replay
	age  []string // names, oldest first
}

type replay struct {
	print [sha256.Size]byte // of the request
	at    time.Time
	done  chan struct{} // closed when made or failed
	made  *api.Sandbox  // nil: it failed
}

// do makes something once for each name: of two requests at once the second waits for
// the first. What failed is tried again. replayed says that made is of an earlier one.
func (p *replays) do(ctx context.Context, name string, request any, make func() (api.Sandbox, error)) (made api.Sandbox, replayed bool, err error) {
	b, err := json.Marshal(request)
	if err != nil {
		return made, false, err
	}
	for {
		r, mine := p.begin(name, sha256.Sum256(b))
		if mine {
			made, err = make()
			p.end(name, r, made, err)
			return made, false, err
		}
		if r.print != sha256.Sum256(b) {
			return made, false, api.Errorf(api.Conflict, "the idempotency key is of another request").WithCode("idempotency").
				WithRecovery("Use a new key for each sandbox that you want.")
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return made, false, context.Cause(ctx)
		}
		if r.made != nil {
			return *r.made, true, nil
		}
	}
}

func (p *replays) begin(name string, print [sha256.Size]byte) (r *replay, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
	if r := p.made[name]; r != nil {
		return r, false
	}
	if p.made == nil {
		p.made = map[string]*replay{}
	}
	r = &replay{print: print, at: time.Now(), done: make(chan struct{})}
	p.made[name] = r
	p.age = append(p.age, name)
	return r, true
}

func (p *replays) end(name string, r *replay, made api.Sandbox, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		r.made = &made
	} else if p.made[name] == r {
		delete(p.made, name)
		p.age = slices.DeleteFunc(p.age, func(n string) bool { return n == name })
	}
	close(r.done)
}

// forget drops what is old, or beyond the bound.
func (p *replays) forget() {
	for len(p.age) > 0 {
		if r := p.made[p.age[0]]; len(p.age) < maxReplays && time.Since(r.at) < replayTime {
			return
		}
		delete(p.made, p.age[0])
		p.age = p.age[1:]
	}
}
