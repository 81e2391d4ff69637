package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Recorder is told what a network did. It is called from the paths of packets
// and must not block.
type Recorder interface {
	Record(Event)
}

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	EventQuestion EventKind = "question" // a DNS question was answered or denied
	EventFlow     EventKind = "flow"     // a flow was decided
	EventEnd      EventKind = "end"      // an allowed flow ended
	EventDrop     EventKind = "drop"     // frames were dropped before they were flows
)

// Event is one thing that happened. Fields that do not belong to its kind are zero.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Question Question  `json:"question,omitzero"`
	Flow     Flow      `json:"flow,omitzero"`
	Verdict  Verdict   `json:"verdict"`
	Rule     string    `json:"rule,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why denied, why ended, why dropped

	// Of questions.
	Result    string       `json:"result,omitempty"` // "NOERROR", "NXDOMAIN", ...
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Removed   []netip.Addr `json:"removed,omitempty"` // denied addresses of the answer

	// Of flows.
	Dialed   string        `json:"dialed,omitempty"` // what the host connected to
	Sent     int64         `json:"sent,omitempty"`   // bytes from the guest
	Received int64         `json:"received,omitempty"`
	Duration time.Duration `json:"duration,omitempty"`

	// Of drops: how many frames this stands for.
	Count uint64 `json:"count,omitempty"`
}

type nobody struct{}

func (nobody) Record(Event) {}

// Stats are counters since New. They only grow, but for the gauges.
type Stats struct {
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64 // of frames; in is from the guest
	QueueDrops          uint64 // frames for a guest that did not take them
	Drops               map[DropReason]uint64

	Questions, FlowsAllowed, FlowsDenied uint64
	FlowsRefused                         uint64 // beyond a limit

	// Used is the payload that passed in both directions together, in bytes,
	// Config.Used included.
	Used int64

	// Gauges.
	TCPFlows, UDPFlows, Pings, Held int
}

// counters is what Stats is made from.
type counters struct {
	framesIn, framesOut, bytesIn, bytesOut, queueDrops atomic.Uint64
	questions, allowed, denied, refused                atomic.Uint64

	drops [numDrops]atomic.Uint64
}

// record sets the time of an event and passes it on.
func (n *Network) record(e Event) {
	e.Time = n.cfg.Now()
	n.cfg.Recorder.Record(e)
}

// dropLog keeps a guest that sends bad frames from flooding the record: of each
// reason one event a second, which counts those since the one before.
type dropLog struct {
	mu      sync.Mutex
	last    [numDrops]time.Time
	pending [numDrops]pending
	later   bool // somebody will take what is pending
}

// pending are dropped frames that no event stands for yet, and where the last one
// of them wanted to go.
type pending struct {
	count uint64
	flow  Flow
}

const dropEvery = time.Second

// note takes a dropped frame. It returns the frames that an event should stand for
// now, if any, and whether the caller has to see to those that wait.
func (d *dropLog) note(why drop, f Flow, now time.Time) (due pending, later bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending[why].count++
	d.pending[why].flow = f
	if !d.last[why].IsZero() && now.Sub(d.last[why]) < dropEvery {
		later, d.later = !d.later, true
		return pending{}, later
	}
	return d.take(why, now), false
}

func (d *dropLog) take(why drop, now time.Time) pending {
	due := d.pending[why]
	d.pending[why] = pending{}
	if due.count > 0 {
		d.last[why] = now
	}
	return due
}

// takeAll returns all that waits.
func (d *dropLog) takeAll(now time.Time) (due [numDrops]pending) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.later = false
	for why := range due {
		due[why] = d.take(drop(why), now)
	}
	return due
}

// dropped counts a frame and perhaps records it. Chatter says nothing about the
// guest's programs and is not worth a record.
func (n *Network) dropped(p packet) {
	n.count.drops[p.drop].Add(1)
	if p.drop == dropChatter {
		return
	}
	f := Flow{Src: netip.AddrPortFrom(p.src, 0), Dst: netip.AddrPortFrom(p.dst, 0)}
	due, later := n.drops.note(p.drop, f, n.cfg.Now())
	n.recordDrops(p.drop, due)
	if later {
		n.wg.Go(n.recordLater)
	}
}

// recordLater records the drops of the last second, of which no later one need tell.
func (n *Network) recordLater() {
	timer := time.NewTimer(dropEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-n.ctx.Done():
	}
	for why, due := range n.drops.takeAll(n.cfg.Now()) {
		n.recordDrops(drop(why), due)
	}
}

func (n *Network) recordDrops(why drop, due pending) {
	if due.count > 0 {
		n.record(Event{Kind: EventDrop, Flow: due.flow, Reason: string(why.reason()), Count: due.count})
	}
}

// Stats returns the counters.
func (n *Network) Stats() Stats {
	s := Stats{
		FramesIn: n.count.framesIn.Load(), FramesOut: n.count.framesOut.Load(),
		BytesIn: n.count.bytesIn.Load(), BytesOut: n.count.bytesOut.Load(),
		QueueDrops: n.count.queueDrops.Load(), Drops: map[DropReason]uint64{},
		Questions: n.count.questions.Load(), FlowsAllowed: n.count.allowed.Load(),
		FlowsDenied: n.count.denied.Load(), FlowsRefused: n.count.refused.Load(),
		Used:     n.meter.used.Load(),
		TCPFlows: len(n.tcpSlots), UDPFlows: len(n.udpSlots), Pings: len(n.pingSlots), Held: len(n.held),
	}
	for i := range n.count.drops {
		if v := n.count.drops[i].Load(); v > 0 {
			s.Drops[drop(i).reason()] = v
		}
	}
	return s
}
