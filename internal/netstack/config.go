package netstack

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/smolvm/smolvm/api"
)

// The link as every sandbox sees it. Each sandbox has a stack of its own, so
// all can be the same, and a clone needs no renumbering.
//
// IPv4 is the end of 198.18.0.0/15: set aside for benchmarks, so neither the
// internet nor home, office, container or carrier networks use it; the lower
// half is what some proxies hand out as stand-in addresses. IPv6 is a unique
// local prefix with random bits: most systems prefer IPv4 to it where a name has
// both, which is right on hosts without IPv6.
var (
	DefaultGuestMAC   = [6]byte{0x02, 0x53, 0x4d, 0x4f, 0x4c, 0x02}
	DefaultGatewayMAC = [6]byte{0x02, 0x53, 0x4d, 0x4f, 0x4c, 0x01}
	DefaultGuest4     = netip.MustParsePrefix("198.19.77.2/30")
	DefaultGateway4   = netip.MustParseAddr("198.19.77.1")
	DefaultGuest6     = netip.MustParsePrefix("fdc7:3b19:5e8d:4d::2/64")
	DefaultGateway6   = netip.MustParseAddr("fdc7:3b19:5e8d:4d::1")
)

// Sizes of packets, in bytes.
const (
	// DefaultMTU is what one frame can carry at most: flows end in this process,
	// so no path of the internet bounds it, and fewer frames cost less.
	DefaultMTU = 65520
	// MaxMTU is the largest IPv4 packet.
	MaxMTU = 65535
	// minMTU is what IPv6 demands.
	minMTU = 1280
)

// Dialer makes connections on the host. *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config says what a network is made of. The zero value of each field but
// Decider works.
type Config struct {
	GuestMAC, GatewayMAC [6]byte
	Guest4, Guest6       netip.Prefix // the guest's address and the subnet it is in
	Gateway4, Gateway6   netip.Addr   // also the name server
	MTU                  int          // bytes of IP in a frame; DefaultMTU

	// Decider is asked about everything the guest tries; required.
	Decider Decider
	// Dialer makes the host's side of TCP and UDP flows; a net.Dialer.
	Dialer Dialer
	// Upstream answers DNS questions; the host's name servers.
	Upstream Upstream
	// Recorder is told what happened; nobody.
	Recorder Recorder
	// Now is the clock for lifetimes of names and times of records; time.Now.
	Now func() time.Time

	// Names are those that an earlier Network of the same guest gave out, as
	// Network.Names returned them: a guest that was saved still knows them.
	Names []Pin
	// Used is what was used up of Limits.QuotaBytes before, as Stats.Used said.
	Used int64

	Limits Limits
}

// Limits bound what a guest can make the host hold. Zero fields have defaults.
type Limits struct {
	TCPFlows   int // open TCP flows; 1024
	UDPFlows   int // open UDP flows; 512
	Connecting int // host connections being made at once; 128
	Held       int // flows and questions that wait for a person's answer; 128
	Questions  int // DNS questions being answered at once; 128
	Pings      int // open echo flows; 32
	Names      int // names whose addresses are remembered; 4096
	Answers    int // cached DNS answers; 4096
	// Flows is how many TCP, UDP and echo flows together may be open at once; no
	// bound but those above.
	Flows int

	// RateBytes is how many bytes of payload a second may pass in each direction,
	// of all flows together; no bound.
	RateBytes int
	// QuotaBytes is how many bytes of payload may pass in both directions together,
	// Config.Used included: then flows are reset and denied. No bound. What is on
	// its way when it is reached passes.
	QuotaBytes int64

	ConnectTimeout  time.Duration // for the host's side of a flow; 30s
	HoldTimeout     time.Duration // for an answer to Wait, at most; 60s
	QuestionTimeout time.Duration // for the upstream's answer; 5s
	TCPIdle         time.Duration // a TCP flow without any data; 2h
	UDPIdle         time.Duration // a UDP flow without any datagram; 60s
	Linger          time.Duration // for a guest to take the end of a closed flow; 30s
	PinGrace        time.Duration // how long an address keeps its names after their TTL; 10m
}

// withDefaults returns c with every field set, or an error of class Invalid.
func (c Config) withDefaults() (Config, error) {
	if c.Decider == nil {
		return c, api.Errorf(api.Invalid, "make network: there is no decider")
	}
	set(&c.GuestMAC, DefaultGuestMAC)
	set(&c.GatewayMAC, DefaultGatewayMAC)
	set(&c.Guest4, DefaultGuest4)
	set(&c.Guest6, DefaultGuest6)
	set(&c.Gateway4, DefaultGateway4)
	set(&c.Gateway6, DefaultGateway6)
	set(&c.MTU, DefaultMTU)
	c.Limits = c.Limits.withDefaults()
	if c.Dialer == nil {
		c.Dialer = &net.Dialer{}
	}
	if c.Upstream == nil {
		c.Upstream = &hostServers{path: resolvConf}
	}
	if c.Recorder == nil {
		c.Recorder = nobody{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, c.check()
}

func (c Config) check() error {
	switch l := c.Limits; {
	case l.Flows < 0 || l.RateBytes < 0 || l.QuotaBytes < 0 || c.Used < 0:
		return api.Errorf(api.Invalid, "make network: a bound is negative")
	case c.MTU < minMTU || c.MTU > MaxMTU:
		return api.Errorf(api.Invalid, "make network: MTU %d is not in %d to %d", c.MTU, minMTU, MaxMTU)
	case !c.Guest4.Addr().Is4() || !c.Guest4.Contains(c.Gateway4):
		return api.Errorf(api.Invalid, "make network: gateway %s is not in the guest's subnet %s", c.Gateway4, c.Guest4)
	case !c.Guest6.Addr().Is6() || !c.Guest6.Contains(c.Gateway6):
		return api.Errorf(api.Invalid, "make network: gateway %s is not in the guest's subnet %s", c.Gateway6, c.Guest6)
	}
	return nil
}

func (l Limits) withDefaults() Limits {
	set(&l.TCPFlows, 1024)
	set(&l.UDPFlows, 512)
	set(&l.Connecting, 128)
	set(&l.Held, 128)
	set(&l.Questions, 128)
	set(&l.Pings, 32)
	set(&l.Names, 4096)
	set(&l.Answers, 4096)
	set(&l.ConnectTimeout, 30*time.Second)
	set(&l.HoldTimeout, time.Minute)
	set(&l.QuestionTimeout, 5*time.Second)
	set(&l.TCPIdle, 2*time.Hour)
	set(&l.UDPIdle, time.Minute)
	set(&l.Linger, 30*time.Second)
	set(&l.PinGrace, 10*time.Minute)
	return l
}

// set gives p its default if it is zero.
func set[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}
