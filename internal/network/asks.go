package network

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

// holdSlack lets a question end by its own time, and with its own reason, before
// the stack ends the wait.
const holdSlack = time.Second

// answerHolds is how long a denial that was said once also holds for the same
// question: clients try again at once, and a person has answered.
const answerHolds = 5 * time.Second

// nameHolds is how long a name that may be asked for once may be asked for again.
// Its name servers know of it by then.
const nameHolds = 5 * time.Minute

// asks are the questions that wait for a person.
type asks struct {
	n *Network

	mu       sync.Mutex
	byKey    map[string]*ask
	answers  map[string]recent // by key
	held     int
	last     uint64
	watchers map[*watcher]struct{}
	closed   bool
	wg       sync.WaitGroup
}

// ask is one question, with all that wait for its answer.
type ask struct {
	key     string
	req     egress.Request
	decided egress.Decision
	shown   api.PendingFlow
	told    bool // watchers know of it
	waiting map[*waiter]struct{}
	timer   *time.Timer
}

type waiter struct {
	then func(verdict)
	stop func() bool // of the watch for a guest that gives up
}

// verdict is how a question ended.
type verdict struct {
	allow  bool
	ask    string       // its ID
	code   egress.Code  // why
	rule   string       // that decided
	reason string       // for people
	once   *egress.Rule // holds for those that waited; nil: policy says it
}

// Codes of verdicts, beside those of package egress.
const (
	codeAnswer   egress.Code = "answer"    // a person said so
	codeNoAnswer egress.Code = "no_answer" // nobody answered in time
	codeCrowded  egress.Code = "crowded"   // too many wait already
	codeGone     egress.Code = "gone"      // the network ended
)

type recent struct {
	verdict
	until time.Time
}

func newAsks(n *Network) *asks {
	return &asks{n: n, byKey: map[string]*ask{}, answers: map[string]recent{}, watchers: map[*watcher]struct{}{}}
}

// keyOf is the same for requests that ask a person the same.
func keyOf(r egress.Request, d egress.Decision) string {
	p, path := describe(r), ""
	if r.HTTP != nil {
		path = r.HTTP.Path // all of it: an answer for once is for this query and no other
	}
	return strings.Join([]string{p.Proto, p.Host, fmt.Sprint(p.Port), p.Method, path, d.RuleID}, "\x00")
}

// maxShown bounds how much of a path a person is shown, in bytes.
const maxShown = 512

// describe says a request as a person sees it.
func describe(r egress.Request) api.PendingFlow {
	p := api.PendingFlow{Proto: r.Protocol, Host: nameOf(r), Port: int(r.Port)}
	if r.Protocol == egress.DNS {
		return p
	}
	p.Address = r.Addr.String()
	p.Host = cmp.Or(p.Host, strings.Join(r.Names, ","), p.Address)
	if r.HTTP != nil {
		p.Method = r.HTTP.Method
		if p.Path = r.HTTP.Path; len(p.Path) > maxShown {
			p.Path = p.Path[:maxShown] + "..."
		}
	}
	return p
}

// join makes then wait for the answer to a question. It is called at most once,
// from any goroutine and perhaps before join returns; not after ctx has ended.
func (a *asks) join(ctx context.Context, f *flow, req egress.Request, d egress.Decision, then func(verdict)) {
	key := keyOf(req, d)
	a.mu.Lock()
	now := a.n.cfg.Now()
	if old, ok := a.answers[key]; ok && now.Before(old.until) {
		a.mu.Unlock()
		then(old.verdict)
		return
	}
	q := a.byKey[key]
	if a.closed || a.held >= maxHeld || q == nil && len(a.byKey) >= maxPending {
		a.mu.Unlock()
		then(verdict{code: codeCrowded, rule: d.RuleID, reason: "Too many flows wait for an answer already."})
		return
	}
	if q == nil {
		q = a.open(key, req, d, now)
		a.wg.Go(func() { a.introduce(q, f) })
	}
	a.held++
	w := &waiter{then: then}
	w.stop = context.AfterFunc(ctx, func() { a.leave(q, w) })
	q.waiting[w] = struct{}{}
	q.shown.Flows = len(q.waiting)
	a.mu.Unlock()
}

// open makes a question. The lock is held.
func (a *asks) open(key string, req egress.Request, d egress.Decision, now time.Time) *ask {
	a.last++
	hold := a.n.cfg.hold()
	q := &ask{key: key, req: req, decided: d, shown: describe(req), waiting: map[*waiter]struct{}{}}
	q.shown.ID = fmt.Sprintf("a%d", a.last)
	q.shown.Rule = d.RuleID
	q.shown.Asked, q.shown.Expires = now.UTC(), now.Add(hold).UTC()
	a.byKey[key] = q
	q.timer = time.AfterFunc(hold, func() {
		v := verdict{code: codeNoAnswer, rule: d.RuleID, reason: fmt.Sprintf("Nobody answered within %s.", hold)}
		a.finish(q, v, api.FlowExpired)
	})
	return q
}

// introduce finds out who asks, then tells watchers and the record.
func (a *asks) introduce(q *ask, f *flow) {
	var p *api.NetworkProcess
	if f != nil {
		p = f.findOwnerWithin(context.Background(), askTime)
	}
	a.mu.Lock()
	if p != nil {
		q.shown.PID, q.shown.Argv = p.PID, p.Argv
	}
	q.told = true
	open := a.byKey[q.key] == q
	if open {
		a.tell(api.FlowEvent{Kind: api.FlowPending, Flow: q.shown})
	}
	shown := q.shown
	a.mu.Unlock()
	a.n.recordAsk(q, f, shown)
}

// finish ends a question. Only the first call does.
func (a *asks) finish(q *ask, v verdict, kind api.FlowEventKind) bool {
	a.mu.Lock()
	if a.byKey[q.key] != q {
		a.mu.Unlock()
		return false
	}
	v.ask = q.shown.ID
	delete(a.byKey, q.key)
	q.timer.Stop()
	waiting := q.waiting
	a.held -= len(waiting)
	a.remember(q, v)
	a.tell(api.FlowEvent{Kind: kind, Flow: q.shown, Allow: v.allow})
	a.mu.Unlock()
	a.n.recordAnswer(q, v)
	for w := range waiting {
		w.stop()
		w.then(v)
	}
	return true
}

// remember keeps an answer for a moment. The lock is held.
func (a *asks) remember(q *ask, v verdict) {
	now := a.n.cfg.Now()
	for k, old := range a.answers {
		if !now.Before(old.until) {
			delete(a.answers, k)
		}
	}
	switch {
	case v.code != codeAnswer:
	case !v.allow:
		a.answers[q.key] = recent{v, now.Add(answerHolds)}
	case q.req.Protocol == egress.DNS:
		a.answers[q.key] = recent{v, now.Add(nameHolds)}
	}
}

// leave takes one out that waits no longer: its guest gave up. A question for which
// nobody waits is over.
func (a *asks) leave(q *ask, w *waiter) {
	a.mu.Lock()
	if _, ok := q.waiting[w]; !ok || a.byKey[q.key] != q {
		a.mu.Unlock()
		return
	}
	delete(q.waiting, w)
	a.held--
	q.shown.Flows = len(q.waiting)
	empty := len(q.waiting) == 0
	a.mu.Unlock()
	if empty {
		a.finish(q, verdict{code: codeGone, rule: q.decided.RuleID, reason: "The guest gave up."}, api.FlowGone)
	}
}

// recheck ends the questions that a changed policy answers.
func (a *asks) recheck() {
	a.mu.Lock()
	clear(a.answers)
	var all []*ask
	for _, q := range a.byKey {
		all = append(all, q)
	}
	a.mu.Unlock()
	for _, q := range all {
		d := a.n.decide(q.req, nil)
		if d.Action == egress.Ask {
			continue
		}
		v := verdict{allow: d.Action != egress.Deny, code: d.Code, rule: d.RuleID, reason: d.Why}
		a.finish(q, v, api.FlowAnswered)
	}
}

func (a *asks) list() []api.PendingFlow {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []api.PendingFlow{}
	for _, q := range a.byKey {
		list = append(list, q.shown)
	}
	slices.SortFunc(list, func(x, y api.PendingFlow) int { return x.Asked.Compare(y.Asked) })
	return list
}

func (a *asks) get(id string) (*ask, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.byKey {
		if q.shown.ID == id {
			return q, true
		}
	}
	return nil, false
}

// close denies all that waits and ends the watches.
func (a *asks) close() {
	a.mu.Lock()
	a.closed = true
	var all []*ask
	for _, q := range a.byKey {
		all = append(all, q)
	}
	a.mu.Unlock()
	for _, q := range all {
		a.finish(q, verdict{code: codeGone, reason: "The network ended."}, api.FlowGone)
	}
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for w := range a.watchers {
		w.end()
	}
	clear(a.watchers)
}
