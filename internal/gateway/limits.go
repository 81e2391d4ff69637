package gateway

import (
	"sync"

	"golang.org/x/time/rate"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// limits counts what each key does.
type limits struct {
	mu   sync.Mutex
	keys map[string]*usage // by id; as many as there are keys
}

type usage struct {
	rate *rate.Limiter
	open int
}

// enter counts a request in, or refuses it. The local user has no limits.
func (l *limits) enter(k *apikey.Key) (done func(), err error) {
	if k == nil {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(k)
	if most := k.MaxConcurrent(); u.open >= most {
		return nil, api.Errorf(api.Exhausted, "key %s has %d requests under way, as many as it may", k.Name, most).
			WithCode(codeConcurrent).WithRecovery("Wait until one has ended.")
	}
	if !u.rate.Allow() {
		return nil, api.Errorf(api.Exhausted, "key %s sends more than %v requests a second", k.Name, k.Rate).
			WithCode(codeRate).WithRecovery("Wait a second and send it again.")
	}
	u.open++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		u.open--
	}, nil
}

func (l *limits) of(k *apikey.Key) *usage {
	if u := l.keys[k.ID]; u != nil {
		return u
	}
	if l.keys == nil {
		l.keys = map[string]*usage{}
	}
	u := &usage{rate: rate.NewLimiter(rate.Inf, 0)}
	if k.Rate > 0 {
		// Two seconds' worth at once: a program that begins looks around first.
		u.rate = rate.NewLimiter(rate.Limit(k.Rate), max(1, int(2*k.Rate)))
	}
	l.keys[k.ID] = u
	return u
}
