package network

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/intercept"
	"github.com/smolvm/smolvm/internal/netstack"
)

// Network is the network of one sandbox while its machine runs. Use Start. Its
// methods may be called from any goroutine.
type Network struct {
	cfg    Config
	stack  *netstack.Network
	host   *host
	asks   *asks
	owners *owners
	opener *intercept.Interceptor

	policy atomic.Pointer[egress.Policy]
	// changes guards the order of changes to policy, and expiry.
	changes sync.Mutex
	expiry  *time.Timer // recheck at the end of a rule; nil: no rule ends
	closed  bool

	flows flows

	tapping atomic.Bool
}

// Start begins to serve the guest's card at the other end of conn. Close ends it,
// and conn with it; after an error conn is still the caller's.
func Start(conn net.Conn, cfg Config) (*Network, error) {
	policy, err := PolicyOf(cfg.Spec)
	if err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	n := &Network{cfg: cfg, host: &host{addrs: cfg.Addrs, now: cfg.Now}}
	if err := n.host.check(); err != nil {
		return nil, err
	}
	if n.opener, err = intercept.New(intercept.Config{CA: cfg.CA, Roots: cfg.Roots, Now: cfg.Now}); err != nil {
		return nil, err
	}
	n.policy.Store(policy)
	n.flows.byID, n.flows.asking = map[uint64]*flow{}, map[netstack.Question]*flow{}
	n.owners = newOwners(cfg.Owner)
	n.asks = newAsks(n)
	n.record(api.NetworkEntry{Kind: api.EventStart})
	n.stack, err = netstack.New(conn, n.stackConfig())
	if err != nil {
		return nil, err
	}
	n.changes.Lock()
	defer n.changes.Unlock()
	n.armExpiry(policy)
	return n, nil
}

// Close ends all flows, denies those that wait, and returns when nothing of the
// network is left. It may be called again.
func (n *Network) Close() error {
	n.changes.Lock()
	first := !n.closed
	n.closed = true
	if n.expiry != nil {
		n.expiry.Stop()
	}
	n.changes.Unlock()
	n.asks.close()
	err := n.stack.Close()
	n.owners.close()
	if first {
		n.record(api.NetworkEntry{Kind: api.EventStop})
	}
	return err
}

// Done is closed when the card's other end is gone. Close must be called even so.
func (n *Network) Done() <-chan struct{} { return n.stack.Done() }

// Stats returns the counters of the stack.
func (n *Network) Stats() netstack.Stats { return n.stack.Stats() }

// Names returns what the guest was told about names, for Config.Names of a
// network that continues this one.
func (n *Network) Names() []netstack.Pin { return n.stack.Names() }

// Capture shows all frames to tap until stop is called. There is one capture at
// a time; another is an error of class Conflict.
func (n *Network) Capture(tap netstack.Tap) (stop func(), err error) {
	if !n.tapping.CompareAndSwap(false, true) {
		return nil, api.Errorf(api.Conflict, "capture packets: another capture is running")
	}
	n.stack.SetTap(tap)
	return sync.OnceFunc(func() {
		n.stack.SetTap(nil)
		n.tapping.Store(false)
	}), nil
}

// Policy returns what holds now, with the rules that answers have put into it.
func (n *Network) Policy() *egress.Policy { return n.policy.Load() }

// SetPolicy makes another policy hold. Flows under way that it does not allow are
// ended, and flows that wait and need not any more go on or end.
func (n *Network) SetPolicy(p *egress.Policy) {
	n.changes.Lock()
	defer n.changes.Unlock()
	n.setPolicy(p)
	n.record(api.NetworkEntry{Kind: api.EventPolicy, Reason: "The policy was replaced."})
}

// setPolicy is called with changes held.
func (n *Network) setPolicy(p *egress.Policy) {
	n.policy.Store(p)
	n.armExpiry(p)
	n.recheck()
}

// expiryStep is how often it is looked whether a rule has ended: timers stand still
// while the host sleeps, and its clock may be set.
const expiryStep = time.Second

// armExpiry makes flows end with the rule that allowed them. Changes is held.
func (n *Network) armExpiry(p *egress.Policy) {
	if n.expiry != nil {
		n.expiry.Stop()
		n.expiry = nil
	}
	now := n.cfg.Now()
	next, ok := p.NextExpiry(now)
	if !ok || n.closed {
		return
	}
	n.expiry = time.AfterFunc(min(next.Sub(now), expiryStep), func() {
		n.changes.Lock()
		defer n.changes.Unlock()
		due := !n.cfg.Now().Before(next)
		n.armExpiry(n.policy.Load())
		if due {
			n.recheck()
		}
	})
}

// recheck decides anew about all that is under way. Changes is held.
func (n *Network) recheck() {
	n.flows.recheck()
	n.asks.recheck()
}

// Pending lists the flows that wait for an answer, the oldest first.
func (n *Network) Pending() []api.PendingFlow { return n.asks.list() }
