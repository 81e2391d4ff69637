package netstack

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/smolvm/smolvm/api"
)

const (
	resolvConf = "/etc/resolv.conf"
	// ednsSize passes every path unfragmented.
	ednsSize   = 1232
	maxServers = 3
	serverTime = 2 * time.Second // for one server, before the next is tried
)

// hostServers asks the name servers of the host. The Go resolver would do, but it
// does not tell how long an answer is good for; and it reads the host's own files
// of names, which are no business of the guest.
type hostServers struct {
	path string

	mu      sync.Mutex
	changed time.Time // of the file that servers were read from
	servers nameServers
}

// list reads the file again if it changed: laptops change networks.
func (h *hostServers) list() (nameServers, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	info, err := os.Stat(h.path)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "find the host's name servers: %w", err)
	}
	if h.servers != nil && info.ModTime().Equal(h.changed) {
		return h.servers, nil
	}
	conf, err := dns.ClientConfigFromFile(h.path)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "find the host's name servers: %w", err)
	}
	servers := make(nameServers, 0, maxServers)
	for _, s := range conf.Servers[:min(len(conf.Servers), maxServers)] {
		servers = append(servers, net.JoinHostPort(s, conf.Port))
	}
	if len(servers) == 0 {
		return nil, api.Errorf(api.Unavailable, "find the host's name servers: %s names none", h.path)
	}
	h.changed, h.servers = info.ModTime(), servers
	return servers, nil
}

// Exchange implements Upstream.
func (h *hostServers) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	servers, err := h.list()
	if err != nil {
		return nil, err
	}
	return servers.Exchange(ctx, q)
}

// Servers returns an Upstream that asks the given name servers, each ADDRESS or
// ADDRESS:PORT, the next one where one has no answer.
func Servers(addresses ...string) Upstream {
	servers := make(nameServers, len(addresses))
	for i, a := range addresses {
		servers[i] = a
		if addr, err := netip.ParseAddr(a); err == nil {
			servers[i] = netip.AddrPortFrom(addr, dnsPort).String()
		}
	}
	return servers
}

// nameServers are the addresses of servers with their ports, in the order in
// which they are asked.
type nameServers []string

// Exchange implements Upstream.
func (servers nameServers) Exchange(ctx context.Context, q *dns.Msg) (reply *dns.Msg, err error) {
	err = api.Errorf(api.Unavailable, "ask for a name: there are no name servers")
	for _, s := range servers {
		reply, err = exchange(ctx, q, s)
		if err == nil && (reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError) {
			return reply, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return reply, err
}

// exchange asks one server, again over TCP if the answer does not fit.
func exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: serverTime, UDPSize: ednsSize}
		reply, _, err := c.ExchangeContext(ctx, q, server)
		if err != nil {
			return nil, api.Errorf(api.Unavailable, "ask name server %s: %w", server, err)
		}
		if !answersQuestion(q, reply) {
			return nil, api.Errorf(api.Unavailable, "ask name server %s: it answered something else", server)
		}
		if !reply.Truncated {
			return reply, nil
		}
	}
	return nil, api.Errorf(api.Unavailable, "ask name server %s: its answer was cut off", server)
}

func answersQuestion(q, reply *dns.Msg) bool {
	return len(reply.Question) == 1 && reply.Question[0].Qtype == q.Question[0].Qtype &&
		canonical(reply.Question[0].Name) == canonical(q.Question[0].Name)
}
