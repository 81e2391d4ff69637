package netstack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzFrames reads any stream as frames and lets the stack have those that pass.
// The stack, its handlers and its answers must bear everything.
func FuzzFrames(f *testing.F) {
	framed := func(frames ...[]byte) []byte {
		var b []byte
		for _, f := range frames {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		}
		return b
	}
	syn := []byte{0xc0, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	f.Add(framed(out(typeIPv4, packet4(me, out4, protoTCP, syn...)), out(typeIPv6, packet6(me6, out6, protoTCP, syn...))))
	f.Add(framed(out(typeIPv4, packet4(me, out4, protoUDP, 1, 0, 0, 53, 0, 20, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0))))
	f.Add(framed(out(typeIPv6, packet6(me6, out6, protoFragment, protoUDP, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 0, 8, 0, 0))))
	f.Add(framed(out(typeIPv4, packet4(me, out4, protoICMP, echo...)), out(typeIPv4, packet4(me, "198.19.77.1", protoICMP, echo...))))
	f.Add(framed(out(typeARP, arpBody(1, DefaultGuestMAC, me, "198.19.77.1"))))
	f.Add([]byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})

	a, b := net.Pipe()
	defer b.Close()
	n, err := New(a, Config{Decider: policy{}, Upstream: exampleZone(), MTU: 1500})
	if err != nil {
		f.Fatal(err)
	}
	defer n.Close()
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bufio.NewReader(bytes.NewReader(stream))
		buf := make([]byte, etherSize+1500)
		for {
			frame, length, err := readFrame(r, buf)
			if err != nil {
				return
			}
			if length > maxStreamFrame || frame == nil && length <= len(buf) {
				t.Fatalf("frame %v of %d bytes", frame, length)
			}
			if frame == nil {
				continue
			}
			p := n.link.check(frame)
			if p.drop == keep && p.ethertype != typeARP && p.src != n.link.guest4 && p.src != n.link.guest6 &&
				!p.src.IsLinkLocalUnicast() && !p.src.IsUnspecified() {
				t.Fatalf("a frame from %s passed", p.src)
			}
			n.receive(frame)
		}
	})
}

// FuzzQuestion gives the name server any message.
func FuzzQuestion(f *testing.F) {
	for _, name := range []string{"www.example", "rebind.example", "1.113.0.203.in-addr.arpa", "localhost", "secret.test"} {
		for _, kind := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeHTTPS, dns.TypeANY} {
			wire, err := question(name, kind).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(wire)
		}
	}
	r := testResolver(f, exampleZone())
	f.Fuzz(func(t *testing.T, wire []byte) {
		const room = 1452
		reply := r.serve(context.Background(), Question{}, wire, room)
		if reply == nil {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil || !m.Response || len(reply) > room || m.Id != binary.BigEndian.Uint16(wire) {
			t.Fatalf("%d bytes, %v, %v", len(reply), err, m)
		}
	})
}

// FuzzAnswer gives the name server any message as its upstream's answer: only
// what was asked for may come of it, and no denied address.
func FuzzAnswer(f *testing.F) {
	z := exampleZone()
	for key := range z.rrs {
		name, kind, _ := bytes.Cut([]byte(key), []byte(" "))
		m, err := z.Exchange(context.Background(), question(string(name), dns.StringToType[string(kind)]))
		if err != nil {
			f.Fatal(err)
		}
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	up := &fixed{}
	r := testResolver(f, up)
	f.Fuzz(func(t *testing.T, wire []byte) {
		up.answer = new(dns.Msg)
		if up.answer.Unpack(wire) != nil {
			return
		}
		name := "www.example."
		if len(up.answer.Question) == 1 {
			name = up.answer.Question[0].Name
		}
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
			r.cache = newLRU[Question, cached](1, nil)
			q := new(dns.Msg)
			q.SetQuestion(name, kind)
			asked, err := q.Pack()
			if err != nil {
				continue
			}
			checkAnswer(t, r.serve(context.Background(), Question{}, asked, dns.MaxMsgSize), kind)
		}
	})
}

func checkAnswer(t *testing.T, reply []byte, kind uint16) {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	for _, rr := range m.Answer {
		if got := rr.Header().Rrtype; got != kind && got != dns.TypeCNAME {
			t.Fatalf("%v in an answer for %d", rr, kind)
		}
		if a, ok := addressOf(rr); ok && canonical(m.Question[0].Name) != "localhost" && (a.IsPrivate() || a.IsLoopback() || a.Is4In6()) {
			t.Fatalf("%v passed", rr)
		}
	}
}

// fixed is an Upstream with one answer.
type fixed struct{ answer *dns.Msg }

func (x *fixed) Exchange(context.Context, *dns.Msg) (*dns.Msg, error) { return x.answer, nil }

func testResolver(t testing.TB, up Upstream) *resolver {
	t.Helper()
	p := example
	p.question = func(Question) Decision { return Decision{Verdict: Allow} }
	p.address = func(_ string, a netip.Addr) Decision {
		if a.IsPrivate() || a.IsLoopback() {
			return Decision{}
		}
		return Decision{Verdict: Allow}
	}
	cfg, err := Config{Decider: p, Upstream: up}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{cfg: cfg, held: make(slots, 1)}
	n.dns = newResolver(n)
	return n.dns
}
