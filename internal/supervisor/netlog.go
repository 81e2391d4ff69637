package supervisor

import (
	"log/slog"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/netlog"
)

// netRecord is the record of the sandbox's network, open from when it is first
// written until the supervisor ends: the networks of its VMs write on one after
// the other.
type netRecord struct {
	mu    sync.Mutex
	w     *netlog.Writer
	ended bool
}

// open returns the writer of the record in dir.
func (r *netRecord) open(dir string, o netlog.Options) (*netlog.Writer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil, api.Errorf(api.Unavailable, "record the network: the sandbox ends")
	}
	if r.w != nil {
		return r.w, nil
	}
	w, err := netlog.Open(dir, o)
	if err != nil {
		return nil, err
	}
	r.w = w
	return w, nil
}

// openRecord returns the writer of the sandbox's record.
func (s *Supervisor) openRecord() (*netlog.Writer, error) {
	return s.netlog.open(s.dir.NetworkLog(), netlog.Options{Key: s.key})
}

func (r *netRecord) counts() netlog.Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w == nil {
		return netlog.Counts{}
	}
	return r.w.Counts()
}

// close ends the record for good. It may be called again.
func (r *netRecord) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.w == nil {
		return
	}
	if err := r.w.Close(); err != nil {
		slog.Error("close network record", "err", err)
	}
}

// networkStats counts what passed the network; nil where there is none.
func (s *Supervisor) networkStats() *api.NetworkStats {
	n := s.wiring.network()
	if n == nil {
		return nil
	}
	c := n.Stats()
	out := &api.NetworkStats{
		SentBytes: c.BytesIn, ReceivedBytes: c.BytesOut, UsedBytes: c.Used,
		Refused: c.FlowsRefused,
		Open:    c.TCPFlows + c.UDPFlows + c.Pings, Held: c.Held,
	}
	// The stack does not see what is decided about a flow that it has handed over.
	said := s.netlog.counts()
	out.Questions, out.Allowed, out.Denied = said.Questions, said.Allowed, said.Denied
	for _, count := range c.Drops {
		out.Dropped += count
	}
	return out
}
