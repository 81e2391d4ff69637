// Package netstacktest is a guest for tests of what stands over package netstack:
// a network stack in this process at the other end of the wire, with the addresses
// that every sandbox has.
//
//	host, wire := netstacktest.Wire(t)
//	n, err := netstack.New(host, cfg)
//	g := netstacktest.NewGuest(t, wire)
//	conn, err := g.Dial(ctx, "tcp", "www.example.test:80")
package netstacktest

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/smolvm/smolvm/internal/netstack"
)

const (
	nic = 1
	// queued frames to the wire; more are dropped, as a wire does it.
	queued = 1024
)

// Guest is the guest's end of a wire. Its name server is the gateway.
type Guest struct {
	stack *stack.Stack
	link  *channel.Endpoint
	wire  net.Conn
}

// Wire returns the two ends of a stream, as supervisor and QEMU have them.
func Wire(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "wire")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// NewGuest puts a guest at an end of a wire. It ends with the test.
func NewGuest(t testing.TB, wire net.Conn) *Guest {
	t.Helper()
	g := &Guest{wire: wire, link: channel.New(queued, netstack.DefaultMTU, tcpip.LinkAddress(netstack.DefaultGuestMAC[:]))}
	g.makeStack(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(g.read)
	wg.Go(func() { g.write(ctx) })
	t.Cleanup(func() {
		cancel()
		wire.Close()
		g.stack.Close()
		wg.Wait()
		g.stack.Wait()
	})
	return g
}

func (g *Guest) makeStack(t testing.TB) {
	t.Helper()
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	must := func(err tcpip.Error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(g.stack.CreateNIC(nic, ethernet.New(g.link)))
	for _, p := range []netip.Prefix{netstack.DefaultGuest4, netstack.DefaultGuest6} {
		must(g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()},
		}, stack.AddressProperties{}))
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFromSlice(netstack.DefaultGateway4.AsSlice()), NIC: nic},
		{Destination: header.IPv6EmptySubnet, Gateway: tcpip.AddrFromSlice(netstack.DefaultGateway6.AsSlice()), NIC: nic},
	})
}

// read gives the frames of the wire to the stack.
func (g *Guest) read() {
	r := bufio.NewReader(g.wire)
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		g.link.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

// write puts the frames of the stack on the wire.
func (g *Guest) write(ctx context.Context) {
	for {
		pkt := g.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		frame := pkt.ToBuffer()
		out := binary.BigEndian.AppendUint32(nil, uint32(frame.Size()))
		out = append(out, frame.Flatten()...)
		frame.Release()
		pkt.DecRef()
		if _, err := g.wire.Write(out); err != nil {
			return
		}
	}
}

// Dial connects from the guest as net.Dialer does: "tcp" or "udp", to a name, which
// the sandbox's name server is asked for, or an address.
func (g *Guest) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		addrs, err := g.Lookup(ctx, host)
		if err != nil {
			return nil, err
		}
		addr = addrs[0]
	}
	number, err := net.LookupPort(network, port)
	if err != nil {
		return nil, err
	}
	return g.dial(ctx, network, netip.AddrPortFrom(addr, uint16(number)))
}

func (g *Guest) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	full := tcpip.FullAddress{Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()}
	if network == "udp" {
		return gonet.DialUDP(g.stack, nil, &full, protocolOf(to.Addr()))
	}
	return gonet.DialContextTCP(ctx, g.stack, full, protocolOf(to.Addr()))
}

// Lookup asks the sandbox's name server for the addresses of a name.
func (g *Guest) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return g.dial(ctx, network, netip.AddrPortFrom(netstack.DefaultGateway4, 53))
	}}
	return r.LookupNetIP(ctx, "ip", name+".")
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
