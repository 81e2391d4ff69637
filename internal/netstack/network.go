package netstack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/smolvm/smolvm/api"
)

// Buffers of one TCP flow, in bytes for each direction. The way between guest
// and stack is short, so small windows fill it. With many flows open new ones
// get less, which bounds what a hostile guest can make us hold to about
// manyFlows*2*wideBuffer + (Limits.TCPFlows-manyFlows)*2*narrowBuffer.
const (
	wideBuffer   = 512 << 10
	narrowBuffer = 64 << 10
	manyFlows    = 64
	// udpBuffer holds a few of the largest datagrams.
	udpBuffer = 128 << 10
)

const (
	nic tcpip.NICID = 1
	// timeWait guards against segments of an old connection that come late. On
	// a wire that keeps their order none do.
	timeWait = time.Second
)

// Network is the network of one sandbox. Use New.
type Network struct {
	cfg   Config
	link  link
	card  *card
	stack *stack.Stack
	dns   *resolver
	tap   tapHolder
	count counters
	meter meter
	drops dropLog
	syns  syns
	pings pings

	wide, narrow *tcp.Forwarder

	flows, tcpSlots, udpSlots, pingSlots, held, connecting, questions slots

	flowID atomic.Uint64
	ctx    context.Context // ends with Close or with the stream
	cancel context.CancelFunc
	live   context.Context // that of flows: ends with ctx, and with the quota
	wg     sync.WaitGroup
	done   chan struct{}
	err    error // why the stream ended; valid after done

	closing sync.Once
}

// New starts the network of a sandbox over conn, which carries its frames. Close
// ends it, and conn with it; after an error conn is still the caller's.
func New(conn net.Conn, cfg Config) (*Network, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Network{
		cfg: cfg, done: make(chan struct{}),
		link: link{
			guestMAC: cfg.GuestMAC, gatewayMAC: cfg.GatewayMAC,
			guest4: cfg.Guest4.Addr(), guest6: cfg.Guest6.Addr(),
			gateway4: cfg.Gateway4, gateway6: cfg.Gateway6,
			subnet4: cfg.Guest4.Masked(), subnet6: cfg.Guest6.Masked(),
		},
		flows:      boundOf(cfg.Limits.Flows),
		tcpSlots:   make(slots, cfg.Limits.TCPFlows),
		udpSlots:   make(slots, cfg.Limits.UDPFlows),
		pingSlots:  make(slots, cfg.Limits.Pings),
		held:       make(slots, cfg.Limits.Held),
		connecting: make(slots, cfg.Limits.Connecting),
		questions:  make(slots, cfg.Limits.Questions),
	}
	n.card = newCard(conn, cfg, &n.count, &n.tap)
	n.dns = newResolver(n)
	n.dns.names.restore(cfg.Names)
	n.syns.init(cfg.Limits.Connecting + cfg.Limits.Held)
	n.pings.init()
	if err := n.makeStack(); err != nil {
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	live, end := context.WithCancelCause(n.ctx)
	n.live = live
	n.meter.init(cfg, func() { end(n.meter.overError()) })
	n.start()
	return n, nil
}

func (n *Network) makeStack() error {
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	// Refusals are of the types' making; none is expected and none is ignored.
	var refused tcpip.Error
	try := func(err tcpip.Error) {
		if refused == nil {
			refused = err
		}
	}
	n.setTCPOptions(try)
	try(n.stack.CreateNIC(nic, n.card))
	for _, a := range []netip.Addr{n.cfg.Gateway4, n.cfg.Gateway6} {
		try(n.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          protocolOf(a),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(a), PrefixLen: a.BitLen()},
		}, stack.AddressProperties{}))
	}
	// The one neighbour is known: nothing that the guest says can change it.
	for _, a := range []netip.Addr{n.link.guest4, n.link.guest6} {
		try(n.stack.AddStaticNeighbor(nic, protocolOf(a), toAddress(a), n.card.guestMAC))
	}
	// Any address is here: what the guest sends to the world ends in us.
	try(n.stack.SetPromiscuousMode(nic, true))
	try(n.stack.SetSpoofing(nic, true))
	n.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	inFlight := n.syns.max + 1 // syns bounds them first
	n.wide = tcp.NewForwarder(n.stack, wideBuffer, inFlight, n.serveTCP)
	n.narrow = tcp.NewForwarder(n.stack, narrowBuffer, inFlight, n.serveTCP)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, n.handleTCP)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, n.handleUDP)
	if refused != nil {
		return api.Errorf(api.Internal, "make network: %s", refused)
	}
	return nil
}

func (n *Network) setTCPOptions(try func(tcpip.Error)) {
	sack := tcpip.TCPSACKEnabled(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: narrowBuffer, Default: wideBuffer, Max: wideBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: narrowBuffer, Default: wideBuffer, Max: wideBuffer}
	// Off: buffers stay as large as they were made.
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &wait, &receive, &send, &moderate} {
		try(n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o))
	}
}

func (n *Network) start() {
	ended := make(chan error, 2)
	n.wg.Add(2)
	go func() {
		defer n.wg.Done()
		ended <- n.card.readLoop(n.receive, func() { n.dropped(packet{drop: dropOversized}) })
	}()
	go func() {
		defer n.wg.Done()
		ended <- n.card.writeLoop(n.ctx.Done())
	}()
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		n.err = <-ended
		n.cancel()
		n.card.conn.Close()
		<-ended
		close(n.done)
	}()
}

// receive takes one frame from the guest.
func (n *Network) receive(frame []byte) {
	p := n.link.check(frame)
	switch {
	case p.drop != keep:
		n.dropped(p)
	case p.echo:
		n.handleEcho(p)
	default:
		n.card.deliver(p.ethertype, frame)
	}
}

// Done is closed when the stream has ended: by its other end, an error or Close.
// Close must be called even so.
func (n *Network) Done() <-chan struct{} { return n.done }

// Err says why the stream ended. It is nil before Done is closed, and where the
// other end closed it or Close was called.
func (n *Network) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// Close resets all flows, ends the stream and returns when no goroutine and no
// socket of the network is left. It may be called again.
func (n *Network) Close() error {
	n.closing.Do(func() {
		n.cancel()
		n.card.conn.Close()
		n.waitForFlows()
		n.stack.Close()
		n.stack.Wait()
	})
	return nil
}

// waitForFlows waits for all goroutines. A flow in its handshake hears of the end
// only by its endpoint, which may be registered after we looked: look again.
func (n *Network) waitForFlows() {
	gone := make(chan struct{})
	go func() {
		n.wg.Wait()
		close(gone)
	}()
	const again = 10 * time.Millisecond
	for {
		for _, e := range n.stack.RegisteredEndpoints() {
			e.Abort()
		}
		select {
		case <-gone:
			return
		case <-time.After(again):
		}
	}
}

// DialGuest connects from the gateway to a port of the guest's IPv4 address.
// proto is TCP or UDP. Errors have class Unavailable if nothing listens there,
// Timeout if ctx ended first. The connection ends with the Network.
func (n *Network) DialGuest(ctx context.Context, proto Proto, port uint16) (net.Conn, error) {
	from := tcpip.FullAddress{NIC: nic, Addr: toAddress(n.cfg.Gateway4)}
	to := tcpip.FullAddress{NIC: nic, Addr: toAddress(n.link.guest4), Port: port}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	switch proto {
	case TCP:
		conn, err := gonet.DialTCPWithBind(ctx, n.stack, from, to, ipv4.ProtocolNumber)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, api.Errorf(api.Timeout, "connect to port %d of the guest: %w", port, ctx.Err())
		}
		return nil, api.Errorf(api.Unavailable, "connect to port %d of the guest: %w", port, err)
	case UDP:
		conn, err := gonet.DialUDP(n.stack, &from, &to, ipv4.ProtocolNumber)
		if err != nil {
			return nil, api.Errorf(api.Unavailable, "connect to port %d of the guest: %w", port, err)
		}
		return conn, nil
	}
	return nil, api.Errorf(api.Invalid, "connect to port %d of the guest: %q is neither tcp nor udp", port, proto)
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
