package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/smolvm/smolvm/api"
)

func testLink() link {
	return link{
		guestMAC: DefaultGuestMAC, gatewayMAC: DefaultGatewayMAC,
		guest4: DefaultGuest4.Addr(), guest6: DefaultGuest6.Addr(),
		gateway4: DefaultGateway4, gateway6: DefaultGateway6,
		subnet4: DefaultGuest4.Masked(), subnet6: DefaultGuest6.Masked(),
	}
}

func ether(dst, src [6]byte, ethertype uint16, body ...[]byte) []byte {
	f := append(slices.Clone(dst[:]), src[:]...)
	f = binary.BigEndian.AppendUint16(f, ethertype)
	return append(f, slices.Concat(body...)...)
}

// out is a frame from the guest to the gateway's card.
func out(ethertype uint16, body ...[]byte) []byte {
	return ether(DefaultGatewayMAC, DefaultGuestMAC, ethertype, body...)
}

func packet4(src, dst string, proto uint8, body ...byte) []byte {
	return append(ip4(netip.MustParseAddr(src), netip.MustParseAddr(dst), proto, len(body)), body...)
}

func packet6(src, dst string, proto uint8, body ...byte) []byte {
	return append(ip6(netip.MustParseAddr(src), netip.MustParseAddr(dst), proto, len(body)), body...)
}

func arpBody(op byte, mac [6]byte, sender, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op}
	s, d := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(target).As4()
	return slices.Concat(b, mac[:], s[:], make([]byte, 6), d[:])
}

// The addresses of the tests' frames.
const (
	me, gw, out4           = "198.19.77.2", "198.19.77.1", "203.0.113.7"
	me6, gw6, out6, local6 = "fdc7:3b19:5e8d:4d::2", "fdc7:3b19:5e8d:4d::1", "2001:db8::7", "fe80::53:4dff:fe4f:4c02"
)

type checkTest struct {
	name  string
	frame []byte
	want  DropReason
	echo  bool
}

func runChecks(t *testing.T, tests []checkTest) {
	t.Helper()
	l := testLink()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if p := l.check(test.frame); p.drop.reason() != test.want || p.echo != test.echo {
				t.Errorf("%q, echo %t; want %q, %t", p.drop.reason(), p.echo, test.want, test.echo)
			}
		})
	}
}

// patch changes a packet.
func patch(b []byte, at int, v ...byte) []byte {
	copy(b[at:], v)
	return b
}

func TestCheckIPv4AndARP(t *testing.T) {
	echo, udp8 := []byte{8, 0, 0, 0, 0, 1, 0, 1}, make([]byte, 8)
	other := [6]byte{2, 0, 0, 0, 0, 9}
	runChecks(t, []checkTest{
		{"udp", out(typeIPv4, packet4(me, out4, protoUDP, udp8...)), "", false},
		{"padding", out(typeIPv4, packet4(me, out4, protoUDP, udp8...), make([]byte, 30)), "", false},
		{"fragment", out(typeIPv4, patch(packet4(me, out4, protoUDP, udp8...), 6, 0x20)), "", false},
		{"fragment beyond any packet", out(typeIPv4, patch(patch(packet4(me, out4, protoUDP, udp8...), 6, 0x1f), 7, 0xff)), "malformed", false},
		{"empty", nil, "malformed", false},
		{"half a header", out(typeIPv4)[:10], "malformed", false},
		{"half a packet", out(typeIPv4, packet4(me, out4, protoUDP)[:12]), "malformed", false},
		{"long length", out(typeIPv4, patch(packet4(me, out4, protoUDP), 2, 0xff)), "malformed", false},
		{"short length", out(typeIPv4, patch(packet4(me, out4, protoUDP), 2, 0, 19)), "malformed", false},
		{"options", out(typeIPv4, patch(packet4(me, out4, protoUDP, udp8...), 0, 0x46)), "malformed", false},
		{"version", out(typeIPv4, patch(packet4(me, out4, protoUDP, udp8...), 0, 0x65)), "malformed", false},
		{"other card", ether(DefaultGatewayMAC, other, typeIPv4, packet4(me, out4, protoUDP)), "source mac", false},
		{"to other card", ether(other, DefaultGuestMAC, typeIPv4, packet4(me, out4, protoUDP)), "destination", false},
		{"other source", out(typeIPv4, packet4("198.19.77.3", out4, protoUDP)), "source", false},
		{"gateway's source", out(typeIPv4, packet4(gw, out4, protoUDP)), "source", false},
		{"dhcp", out(typeIPv4, packet4("0.0.0.0", "255.255.255.255", protoUDP)), "source", false},
		{"loopback", out(typeIPv4, packet4(me, "127.0.0.1", protoTCP)), "destination", false},
		{"zero", out(typeIPv4, packet4(me, "0.0.0.0", protoTCP)), "destination", false},
		{"class e", out(typeIPv4, packet4(me, "240.0.0.1", protoTCP)), "destination", false},
		{"itself", out(typeIPv4, packet4(me, me, protoTCP)), "destination", false},
		{"neighbour", out(typeIPv4, packet4(me, "198.19.77.3", protoTCP)), "destination", false},
		{"broadcast", out(typeIPv4, packet4(me, "255.255.255.255", protoUDP)), "multicast", false},
		{"multicast", out(typeIPv4, packet4(me, "224.0.0.251", protoUDP)), "multicast", false},
		{"sctp", out(typeIPv4, packet4(me, out4, 132)), "protocol", false},
		{"echo out", out(typeIPv4, packet4(me, out4, protoICMP, echo...)), "", true},
		{"echo gateway", out(typeIPv4, packet4(me, gw, protoICMP, echo...)), "", false},
		{"echo fragment", out(typeIPv4, patch(packet4(me, out4, protoICMP, echo...), 6, 0x20)), "protocol", false},
		{"short echo", out(typeIPv4, packet4(me, out4, protoICMP, 8, 0)), "malformed", false},
		{"icmp redirect", out(typeIPv4, packet4(me, out4, protoICMP, 5, 0, 0, 0, 0, 0, 0, 0)), "protocol", false},
		{"vlan", out(0x8100, packet4(me, out4, protoUDP)), "protocol", false},
		{"arp", out(typeARP, arpBody(1, DefaultGuestMAC, me, gw)), "", false},
		{"arp probe", out(typeARP, arpBody(1, DefaultGuestMAC, "0.0.0.0", me)), "chatter", false},
		{"arp for another", out(typeARP, arpBody(1, DefaultGuestMAC, gw, gw)), "source", false},
		{"arp of another", out(typeARP, arpBody(2, other, me, gw)), "source mac", false},
		{"half arp", out(typeARP, arpBody(1, DefaultGuestMAC, me, gw)[:20]), "malformed", false},
	})
}

func TestCheckIPv6(t *testing.T) {
	echo6, udp8 := []byte{128, 0, 0, 0, 0, 1, 0, 1}, make([]byte, 8)
	solicit := func(target string) []byte {
		a := netip.MustParseAddr(target).As16()
		return append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	}
	runChecks(t, []checkTest{
		{"udp6", out(typeIPv6, packet6(me6, out6, protoUDP, udp8...)), "", false},
		{"fragment6", out(typeIPv6, packet6(me6, out6, protoFragment, protoUDP, 0, 0, 1, 0, 0, 0, 1)), "", false},
		{"echo in fragment6", out(typeIPv6, packet6(me6, out6, protoFragment, protoICMPv6, 0, 0, 1, 0, 0, 0, 1)), "protocol", false},
		{"options in fragment6", out(typeIPv6, packet6(me6, out6, protoFragment, 60, 0, 0, 1, 0, 0, 0, 1)), "protocol", false},
		{"hop by hop", out(typeIPv6, packet6(me6, out6, protoHopByHop, 58, 0, 0, 0, 0, 0, 0, 0)), "protocol", false},
		{"routing header", out(typeIPv6, packet6(me6, out6, 43, 58, 0, 0, 0, 0, 0, 0, 0)), "protocol", false},
		{"echo out6", out(typeIPv6, packet6(me6, out6, protoICMPv6, echo6...)), "", true},
		{"echo gateway6", out(typeIPv6, packet6(me6, gw6, protoICMPv6, echo6...)), "", false},
		{"other source6", out(typeIPv6, packet6("2001:db8::9", out6, protoUDP)), "source", false},
		{"local source out6", out(typeIPv6, packet6(local6, out6, protoUDP)), "source", false},
		{"no source out6", out(typeIPv6, packet6("::", out6, protoUDP)), "source", false},
		{"loopback6", out(typeIPv6, packet6(me6, "::1", protoTCP)), "destination", false},
		{"mapped", out(typeIPv6, packet6(me6, "::ffff:127.0.0.1", protoTCP)), "destination", false},
		{"compatible", out(typeIPv6, packet6(me6, "::127.0.0.1", protoTCP)), "destination", false},
		{"neighbour6", out(typeIPv6, packet6(me6, "fdc7:3b19:5e8d:4d::3", protoTCP)), "destination", false},
		{"multicast6", out(typeIPv6, packet6(me6, "ff02::fb", protoUDP)), "multicast", false},
		{"router solicitation", out(typeIPv6, packet6(local6, "ff02::2", protoICMPv6, 133, 0, 0, 0, 0, 0, 0, 0)), "chatter", false},
		{"listener report", out(typeIPv6, packet6(local6, "ff02::16", protoHopByHop, protoICMPv6, 0, 5, 2, 0, 0, 1, 0)), "chatter", false},
		{"igmp", out(typeIPv4, packet4(me, "224.0.0.22", protoIGMP, 0x22)), "chatter", false},
		{"redirect6", out(typeIPv6, packet6(local6, "ff02::1", protoICMPv6, 137, 0, 0, 0, 0, 0, 0, 0)), "multicast", false},
		{"advertisement", out(typeIPv6, packet6(me6, gw6, protoICMPv6, 136, 0, 0, 0, 0, 0, 0, 0)), "", false},
		{"advertisement out", out(typeIPv6, packet6(me6, out6, protoICMPv6, 136, 0, 0, 0, 0, 0, 0, 0)), "protocol", false},
		{"solicitation", out(typeIPv6, packet6(local6, "ff02::1:ff00:1", protoICMPv6, solicit(gw6)...)), "", false},
		{"duplicate detection", out(typeIPv6, packet6("::", "ff02::1:ff00:2", protoICMPv6, solicit(me6)...)), "chatter", false},
		{"short solicitation", out(typeIPv6, packet6(local6, "ff02::1:ff00:1", protoICMPv6, 135, 0, 0, 0, 0, 0, 0, 0)), "malformed", false},
		{"long length6", out(typeIPv6, patch(packet6(me6, out6, protoUDP), 4, 0xff)), "malformed", false},
		{"version6", out(typeIPv6, patch(packet6(me6, out6, protoUDP), 0, 0x40)), "malformed", false},
	})
}

// raw is a network whose wire the test writes itself.
func raw(t *testing.T, cfg Config) (*Network, net.Conn, *log) {
	t.Helper()
	before := ours()
	host, wire := socketpair(t)
	l := newLog()
	cfg.Recorder = l
	if cfg.Decider == nil {
		cfg.Decider = policy{}
	}
	n, err := New(host, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		wire.Close()
		noMore(t, before)
	})
	return n, wire, l
}

func put(t *testing.T, wire net.Conn, frame []byte) {
	t.Helper()
	if _, err := wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
}

func TestBadFramesAreDroppedCountedAndRecorded(t *testing.T) {
	n, wire, l := raw(t, Config{MTU: 1500})
	good := packet4("198.19.77.2", "203.0.113.7", protoUDP, make([]byte, 8)...)
	put(t, wire, ether(DefaultGatewayMAC, [6]byte{2, 2, 2, 2, 2, 2}, typeIPv4, good))
	put(t, wire, out(typeIPv4, packet4("10.0.0.1", "203.0.113.7", protoUDP)))
	put(t, wire, out(typeIPv4, make([]byte, 1501)))
	put(t, wire, out(typeIPv4, nil))
	put(t, wire, nil)
	put(t, wire, out(typeARP, arpBody(1, DefaultGuestMAC, "0.0.0.0", "198.19.77.2"))) // a kernel's own
	put(t, wire, out(typeIPv4, good))                                                 // and the link goes on
	l.kind(t, EventFlow)
	got := n.Stats()
	want := map[DropReason]uint64{"source mac": 1, "source": 1, "oversized": 1, "malformed": 2, "chatter": 1}
	for k, v := range want {
		if got.Drops[k] != v {
			t.Errorf("%s: %d, not %d", k, got.Drops[k], v)
		}
	}
	e := l.wait(t, func(e Event) bool { return e.Kind == EventDrop && e.Reason == "source" })
	if e.Flow.Src.Addr().String() != "10.0.0.1" || e.Count != 1 {
		t.Errorf("event %+v", e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Reason == "chatter" {
			t.Errorf("recorded: %+v", e)
		}
	}
}

func TestDropsAreRecordedOnceASecond(t *testing.T) {
	var d dropLog
	now := time.Unix(1000, 0)
	for i, want := range []struct {
		count uint64
		later bool
	}{{1, false}, {0, true}, {0, false}} {
		if due, later := d.note(dropMAC, Flow{}, now); due.count != want.count || later != want.later {
			t.Errorf("%d: %+v, %v", i, due, later)
		}
	}
	if due, later := d.note(dropMAC, Flow{}, now.Add(dropEvery)); due.count != 3 || later {
		t.Errorf("%+v, %v: not 3", due, later)
	}
	for why, due := range d.takeAll(now) {
		if due.count > 0 {
			t.Errorf("left of %v: %+v", why, due)
		}
	}
}

func TestTheLastDropsAreRecordedToo(t *testing.T) {
	_, wire, l := raw(t, Config{})
	for range 3 {
		put(t, wire, nil)
	}
	l.wait(t, func(e Event) bool { return e.Kind == EventDrop && e.Count == 1 })
	l.wait(t, func(e Event) bool { return e.Kind == EventDrop && e.Count == 2 })
}

func TestStreamThatIsNoneEnds(t *testing.T) {
	n, wire, _ := raw(t, Config{})
	if _, err := wire.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	<-n.Done()
	if !errors.Is(n.Err(), errFrameLength) {
		t.Errorf("%v", n.Err())
	}
}

func TestStreamEnds(t *testing.T) {
	n, wire, _ := raw(t, Config{})
	wire.Close()
	<-n.Done()
	if n.Err() != nil {
		t.Errorf("%v", n.Err())
	}
	n.Close()
	n.Close()
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no decider": {},
		"small mtu":  {Decider: policy{}, MTU: 100},
		"large mtu":  {Decider: policy{}, MTU: 1 << 20},
		"gateway":    {Decider: policy{}, Gateway4: netip.MustParseAddr("10.0.0.1")},
		"gateway6":   {Decider: policy{}, Gateway6: netip.MustParseAddr("fd00::1")},
		"rate":       {Decider: policy{}, Limits: Limits{RateBytes: -1}},
		"quota":      {Decider: policy{}, Limits: Limits{QuotaBytes: -1}},
		"flows":      {Decider: policy{}, Limits: Limits{Flows: -1}},
		"used":       {Decider: policy{}, Used: -1},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			if _, err := New(a, cfg); !errors.Is(err, api.ErrInvalid) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTapSeesFramesBothWays(t *testing.T) {
	n, wire, _ := raw(t, Config{})
	var file bytes.Buffer
	p, err := NewPcapng(&file, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.SetTap(p)
	ask := out(typeARP, arpBody(1, DefaultGuestMAC, "198.19.77.2", "198.19.77.1"))
	put(t, wire, ask)
	answer := make([]byte, lengthSize+etherSize+28)
	if _, err := wire.Read(answer); err != nil {
		t.Fatal(err)
	}
	n.SetTap(nil)
	if p.Err() != nil || !bytes.Contains(file.Bytes(), ask) || !bytes.Contains(file.Bytes(), answer[lengthSize:]) {
		t.Errorf("%v, %d bytes", p.Err(), file.Len())
	}
	if !bytes.Equal(answer[lengthSize+6:lengthSize+12], DefaultGatewayMAC[:]) {
		t.Errorf("answer from %x", answer[lengthSize+6:lengthSize+12])
	}
}

func TestPcapngKeepsItsLimit(t *testing.T) {
	var file bytes.Buffer
	p, err := NewPcapng(&file, 100)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		p.Frame(true, make([]byte, 60))
	}
	if file.Len() > 100 {
		t.Errorf("%d bytes", file.Len())
	}
}

// readIP returns the next IP packet from the wire.
func readIP(t *testing.T, wire net.Conn) []byte {
	t.Helper()
	_ = wire.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, lengthSize)
	if _, err := io.ReadFull(wire, head); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(wire, frame); err != nil {
		t.Fatal(err)
	}
	return frame[etherSize:]
}

// TestUnreachable looks at what a guest's kernel would be told.
func TestUnreachable(t *testing.T) {
	_, wire, _ := raw(t, Config{Decider: policy{flow: func(Flow) Decision { return Decision{How: Unreachable} }}})
	syn := []byte{0xc0, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	datagram := []byte{0xc0, 0, 0, 80, 0, 8, 0, 0}
	echo4, echo6 := []byte{8, 0, 0, 0, 0, 7, 0, 1}, []byte{128, 0, 0, 0, 0, 7, 0, 1}
	for _, test := range []struct {
		name      string
		frame     []byte
		transport []byte
		kind      []byte // type and code
	}{
		{"tcp4", out(typeIPv4, packet4(me, out4, protoTCP, syn...)), syn, []byte{3, 13}},
		{"udp4", out(typeIPv4, packet4(me, out4, protoUDP, datagram...)), datagram, []byte{3, 13}},
		{"echo4", out(typeIPv4, packet4(me, out4, protoICMP, echo4...)), echo4, []byte{3, 13}},
		{"tcp6", out(typeIPv6, packet6(me6, out6, protoTCP, syn...)), syn, []byte{1, 1}},
		{"udp6", out(typeIPv6, packet6(me6, out6, protoUDP, datagram...)), datagram, []byte{1, 1}},
		{"echo6", out(typeIPv6, packet6(me6, out6, protoICMPv6, echo6...)), echo6, []byte{1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			put(t, wire, test.frame)
			got, size := readIP(t, wire), ip4Header
			ours, quote := test.frame[etherSize:], 0
			if ours[0]>>4 == 6 {
				size = ip6Header
			}
			message := got[size:]
			if !bytes.Equal(message[:2], test.kind) || got[0] != ours[0] {
				t.Fatalf("type and code %v, not %v, in % x", message[:2], test.kind, got)
			}
			quote = icmpHeader
			if !bytes.Equal(message[quote+size:], test.transport[:quotedTransport]) {
				t.Errorf("quotes % x", message[quote+size:])
			}
			if pseudo := pseudoSum(got, size); ^checksum.Checksum(message, pseudo) != 0 {
				t.Error("wrong checksum")
			}
		})
	}
}

func pseudoSum(packet []byte, size int) uint16 {
	if size == ip4Header {
		return 0
	}
	return header.PseudoHeaderChecksum(protoICMPv6, tcpip.AddrFromSlice(packet[8:24]), tcpip.AddrFromSlice(packet[24:40]), uint16(len(packet)-size))
}
