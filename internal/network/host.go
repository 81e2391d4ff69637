package network

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

// hostFor is how long the host's addresses are believed. Laptops change networks.
const hostFor = 5 * time.Second

// host knows the addresses of the machine that runs the sandbox.
type host struct {
	addrs func() ([]netip.Addr, error)
	now   func() time.Time

	mu    sync.Mutex
	known *egress.Host
	until time.Time
}

// get returns what is known now. Where the addresses cannot be read any more, those
// of before still count.
func (h *host) get() *egress.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known != nil && h.now().Before(h.until) {
		return h.known
	}
	addrs, err := h.addrs()
	if err == nil {
		h.known = &egress.Host{Addrs: addrs}
	}
	h.until = h.now().Add(hostFor)
	return h.known
}

// check reads the addresses for the first time: without them the host could not be
// told from the internet.
func (h *host) check() error {
	if h.get() == nil {
		return api.Errorf(api.Internal, "start network: the host's own addresses cannot be read")
	}
	return nil
}

func hostAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs, nil
}

// dialer makes connections on the host.
func dialer() *net.Dialer {
	// Probes of ours would keep a flow alive that the guest has given up; netstack
	// ends those that are idle.
	return &net.Dialer{KeepAlive: -1}
}
