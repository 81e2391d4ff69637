package network

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/netstack"
)

// flow is one conversation that the guest began, from its first packet to its end.
type flow struct {
	n   *Network
	net netstack.Flow

	mu       sync.Mutex
	req      egress.Request      // what is known of it
	extra    []egress.Rule       // answers that hold for it alone
	process  *api.NetworkProcess // nil: not known
	asked    bool                // the guest was asked for it
	holding  bool                // it is being asked, and entries wait in held
	held     []api.NetworkEntry
	recorded bool                    // its decision is in the record
	denied   bool                    // and that was no
	cancel   context.CancelCauseFunc // ends it; nil: not yet
	passed   bool                    // what it carries is not looked at
	running  map[*egress.HTTP]bool   // requests that were allowed; whether by a person
	over     string                  // why it was ended by that; empty: it was not
}

// flows are those under way. What is in them ends with an event of the stack.
type flows struct {
	mu     sync.Mutex
	byID   map[uint64]*flow
	asking map[netstack.Question]*flow // DNS questions whose process matters
}

func (n *Network) track(nf netstack.Flow) *flow {
	f := &flow{n: n, net: nf, req: requestOf(nf)}
	n.flows.mu.Lock()
	defer n.flows.mu.Unlock()
	n.flows.byID[nf.ID] = f
	return f
}

func (s *flows) remove(id uint64) *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.byID[id]
	delete(s.byID, id)
	return f
}

// recheck ends the flows that policy does not allow any more.
func (s *flows) recheck() {
	s.mu.Lock()
	all := make([]*flow, 0, len(s.byID))
	for _, f := range s.byID {
		all = append(all, f)
	}
	s.mu.Unlock()
	for _, f := range all {
		f.recheck()
	}
}

func (f *flow) recheck() {
	f.mu.Lock()
	settled := f.recorded && !f.denied
	running := maps.Clone(f.running)
	f.mu.Unlock()
	if !settled {
		return
	}
	f.endUnless(f.stands())
	for r, asked := range running {
		f.endUnless(f.requestStands(r, asked))
	}
}

// endUnless ends the flow, for a reason, if ok is false.
func (f *flow) endUnless(why string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok || f.cancel == nil {
		return
	}
	err := api.Errorf(api.Denied, "the policy was changed: %s", why)
	f.over = err.Error()
	f.cancel(err)
}

// stands reports whether policy still allows what the flow does, or why not. Where
// nobody looks at what passes, policy must allow it without looking.
func (f *flow) stands() (why string, ok bool) {
	f.mu.Lock()
	req, passed := f.req, f.passed
	f.mu.Unlock()
	d := f.decide(req)
	return d.Why, d.Action == egress.Allow || !passed && d.Action != egress.Deny
}

// requestStands is stands for a request under way. What a person was asked about
// is not asked about again.
func (f *flow) requestStands(r *egress.HTTP, asked bool) (why string, ok bool) {
	req := f.request()
	req.HTTP = r
	d := f.decide(req)
	return d.Why, d.Action == egress.Allow || asked && d.Action == egress.Ask
}

// run notes until ctx ends that an allowed request is under way, so that a change
// of policy ends it: an upload may be long, and a WebSocket without end.
func (f *flow) run(ctx context.Context, r *egress.HTTP, asked bool) {
	f.mu.Lock()
	if f.running == nil {
		f.running = map[*egress.HTTP]bool{}
	}
	f.running[r] = asked
	f.mu.Unlock()
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.running, r)
	})
	f.endUnless(f.requestStands(r, asked)) // policy may have changed just before
}

// pass notes that what the flow carries is not looked at from here on.
func (f *flow) pass() {
	f.mu.Lock()
	f.passed = true
	f.mu.Unlock()
	f.recheck() // policy may have changed just before
}

// ending returns what is closed when the flow must end, for one that is not served.
func (f *flow) ending() <-chan struct{} {
	ctx, cancel := context.WithCancelCause(context.Background())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancel = cancel
	return ctx.Done()
}

// end frees what ending made, and returns why the flow was ended, if it was.
func (f *flow) end() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel != nil {
		f.cancel(nil)
	}
	return f.over
}

func (f *flow) request() egress.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.req
}

// learn changes what is known of the flow.
func (f *flow) learn(change func(*egress.Request)) egress.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.req)
	return f.req
}

// decide asks the policy that holds now, with the answers for this flow in front.
func (f *flow) decide(req egress.Request) egress.Decision { return f.decideWith(req, nil) }

// decideWith also knows an answer that was given once: about an HTTP request it
// holds for that one, about a flow as long as the flow lives.
func (f *flow) decideWith(req egress.Request, once *egress.Rule) egress.Decision {
	f.mu.Lock()
	extra := f.extra
	if once != nil {
		extra = append(slices.Clip(extra), *once)
	}
	if req.HTTP == nil {
		f.extra = extra
	}
	f.mu.Unlock()
	return f.n.decide(req, extra)
}

func (n *Network) decide(req egress.Request, extra []egress.Rule) egress.Decision {
	req.At = n.cfg.Now()
	p := n.policy.Load()
	if len(extra) > 0 {
		// An answer that does not fit into the policy any more is lost, which asks again.
		if q, err := p.Insert(0, extra...); err == nil {
			p = q
		}
	}
	return egress.Decide(p, n.host.get(), req)
}

// nameOf returns the name a request is about, as far as it is known: the one it
// showed if that is a name of the address, otherwise the only one of the address.
func nameOf(r egress.Request) string {
	if r.Protocol == egress.DNS {
		return r.Question
	}
	for _, shown := range []string{shownHost(r), shownSNI(r)} {
		if slices.Contains(r.Names, shown) {
			return shown
		}
	}
	if len(r.Names) == 1 {
		return r.Names[0]
	}
	return ""
}

func shownSNI(r egress.Request) string {
	if r.TLS == nil {
		return ""
	}
	return r.TLS.SNI
}

func shownHost(r egress.Request) string {
	if r.HTTP == nil {
		return ""
	}
	host, err := egress.NormalName(hostOnly(r.HTTP.Host))
	if err != nil {
		return ""
	}
	return host
}

// hostOnly cuts the port off a host of HTTP.
func hostOnly(s string) string {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String()
	}
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == ':':
			return s[:i]
		case s[i] < '0' || s[i] > '9':
			return s
		}
	}
	return s
}
