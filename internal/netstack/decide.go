package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Decider is the policy of one sandbox. Its methods are called from many
// goroutines and must be quick: what takes time is answered with Wait.
type Decider interface {
	// Question decides whether a name may be asked for.
	Question(ctx context.Context, q Question) Decision
	// Flow decides about a new flow, before anything is dialled. ctx, here and in
	// Question, ends when nobody waits for an answer any more.
	Flow(ctx context.Context, f Flow) Decision
	// Address decides whether name may have this address. A denied address is
	// taken out of DNS answers and is never dialled for the name.
	Address(name string, addr netip.Addr) Decision
}

// Proto is what a flow is made of.
type Proto string

// The protocols of flows.
const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	ICMP Proto = "icmp" // echo alone
)

// Question is a DNS question of the guest.
type Question struct {
	Name string `json:"name"` // lower case, without the last dot
	Type string `json:"type"` // "A", "AAAA", "TXT", ...

	// Who asks; of what the host itself looks up: nobody.
	Proto Proto          `json:"proto,omitempty"` // TCP or UDP
	Src   netip.AddrPort `json:"src,omitzero"`
}

// subject is a question without who asks.
func (q Question) subject() Question { return Question{Name: q.Name, Type: q.Type} }

// Flow is one conversation that the guest began.
type Flow struct {
	ID    uint64         `json:"id"` // unique in a Network
	Proto Proto          `json:"proto"`
	Src   netip.AddrPort `json:"src"`
	Dst   netip.AddrPort `json:"dst"` // port 0 for ICMP

	// Names are those whose pinned answers hold Dst's address, the last asked
	// first. They are the guest's claim about the address that we can vouch for.
	Names []string `json:"names,omitempty"`
}

// Verdict is the kind of a Decision.
type Verdict uint8

// The verdicts. Zero is Deny: a Decision that says nothing allows nothing.
const (
	Deny  Verdict = iota
	Allow         // dial what Decision says
	Wait          // hold it until Decision.Answer has one
	Serve         // TCP only: give the guest's end to Decision.Handler
)

// String returns the verdict as records write it.
func (v Verdict) String() string {
	switch v {
	case Deny:
		return "deny"
	case Allow:
		return "allow"
	case Wait:
		return "wait"
	case Serve:
		return "serve"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// MarshalText makes records readable.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Refusal says how a denied flow looks to the guest.
type Refusal uint8

// The refusals.
const (
	Reset       Refusal = iota // TCP: reset; else as Unreachable
	Unreachable                // ICMP: administratively prohibited
	Drop                       // nothing at all, so that the guest times out
)

// Decision is what a Decider says. Only Network makes connections, and it
// makes none without one.
type Decision struct {
	Verdict Verdict
	Reason  string // for people
	Rule    string // which rule decided, if one did
	How     Refusal

	// Name, with Allow, is dialled instead of the flow's address: it is resolved
	// on the host, each address passing Decider.Address, and tried in turn. Addr,
	// if valid, is dialled instead of the flow's address. Port, if not 0, instead
	// of its port. Echo requests always go to the flow's address.
	Name string
	Addr netip.Addr
	Port uint16

	// Hold bounds the time for Answer (0: Limits.HoldTimeout, which also is the
	// most). A closed Answer denies. Send one Decision, on a channel with room.
	Hold   time.Duration
	Answer <-chan Decision

	// Ends, with Allow of UDP and echo, ends the flow when it is closed; nil: only
	// silence does. TCP flows that may have to end early are for Serve.
	Ends <-chan struct{}

	// Handler gets the guest's end with Serve. With DialFirst the connection that
	// an Allow of the same Name, Addr and Port would make is made before the guest
	// is answered, so that the guest sees a refused port as such; nothing of the
	// guest is sent on it, and the handler's first DialFunc call that asks for the
	// same gets it.
	Handler   Handler
	DialFirst bool
}

// DialFunc connects to what the flow wanted or what d says instead. d must be
// Allow; everything else is an error of class Denied. Either is recorded.
type DialFunc func(ctx context.Context, d Decision) (net.Conn, error)

// Handler serves a TCP flow itself: it sees what the guest sends before anything
// is dialled. guest is closed for it when it returns; an error resets the guest's
// side. ctx ends with the Network.
type Handler func(ctx context.Context, guest net.Conn, f Flow, dial DialFunc) error

// settle turns Wait into another verdict: it holds until there is an answer, the
// time is over or ctx ends.
func (n *Network) settle(ctx context.Context, d Decision) Decision {
	if d.Verdict != Wait {
		return d
	}
	if !n.held.try() {
		return Decision{Rule: d.Rule, How: d.How, Reason: "too many flows wait for an answer"}
	}
	defer n.held.release()
	hold := n.cfg.Limits.HoldTimeout
	if d.Hold > 0 {
		hold = min(hold, d.Hold)
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case a, ok := <-d.Answer:
		if !ok || a.Verdict == Wait {
			return Decision{Rule: d.Rule, How: d.How, Reason: "there was no answer"}
		}
		return a
	case <-timer.C:
		return Decision{Rule: d.Rule, How: d.How, Reason: fmt.Sprintf("nobody answered in %s", hold)}
	case <-ctx.Done():
		return Decision{Rule: d.Rule, How: Drop, Reason: "the network ended"}
	}
}

// slots is a bound on how many of something there are; nil is no bound.
type slots chan struct{}

// boundOf returns a bound of limit, or none for 0.
func boundOf(limit int) slots {
	if limit == 0 {
		return nil
	}
	return make(slots, limit)
}

func (s slots) try() bool {
	if s == nil {
		return true
	}
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) get(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s slots) release() {
	if s != nil {
		<-s
	}
}
