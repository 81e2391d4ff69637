package netstack

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestFloods has a guest that sends thousands of first packets while nobody
// decides: what we hold for it is what Limits say, and the rest is counted.
func TestFloods(t *testing.T) {
	const packets = 5000
	limits := Limits{TCPFlows: 20, UDPFlows: 20, Connecting: 10, Held: 100, Pings: 5, Questions: 10}
	port := func(i int, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(1024+i)), rest...)
	}
	for _, test := range []struct {
		name  string
		frame func(i int) []byte
		most  int // goroutines more than before
	}{
		{"tcp", func(i int) []byte {
			return out(typeIPv4, packet4(me, out4, protoTCP, port(i, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)...))
		}, limits.Connecting + limits.Held},
		{"udp", func(i int) []byte {
			return out(typeIPv4, packet4(me, out4, protoUDP, port(i, 0, 80, 0, 8, 0, 0)...))
		}, limits.UDPFlows},
		{"echo", func(i int) []byte {
			return out(typeIPv4, packet4(me, out4, protoICMP, slices.Concat([]byte{8, 0, 0, 0}, port(i), []byte{0, 1})...))
		}, limits.Pings},
		{"dns", func(i int) []byte {
			wire, err := question("www.example", 1).Pack()
			if err != nil {
				t.Fatal(err)
			}
			head := binary.BigEndian.AppendUint16(port(i, 0, 53), uint16(udpHeader+len(wire)))
			return out(typeIPv4, packet4(me, out4, protoUDP, slices.Concat(head, []byte{0, 0}, wire)...))
		}, limits.Questions},
		{"fragments", func(i int) []byte {
			p := packet4(me, out4, protoUDP, make([]byte, 1400)...)
			p = patch(p, 4, byte(i>>8), byte(i), 0x20, 0) // all are first pieces of another whole
			return out(typeIPv4, patch(patch(p, 10, 0, 0), 10, ip4sum(p)...))
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := func(Flow) Decision { return Decision{Verdict: Wait, Answer: make(chan Decision)} }
			p := policy{flow: asked, question: func(Question) Decision { return asked(Flow{}) }}
			n, wire, _ := raw(t, Config{Decider: p, Limits: limits, MTU: 1500})
			go func() { _, _ = io.Copy(io.Discard, wire) }()
			before, memory := runtime.NumGoroutine(), heap()
			for i := range packets {
				put(t, wire, test.frame(i))
			}
			drain(t, n, packets)
			const drops = 1 // what sees to the record of dropped frames
			if got := runtime.NumGoroutine() - before; got > test.most+drops {
				t.Errorf("%d goroutines, more than %d", got, test.most)
			}
			if got := heap() - memory; got > 8<<20 {
				t.Errorf("%d KiB in use", got>>10)
			}
			if s := n.Stats(); test.most > 0 && s.FlowsRefused+s.FlowsDenied < packets/2 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

func ip4sum(p []byte) []byte {
	p = slices.Clone(p)
	p[10], p[11] = 0, 0
	var sum uint32
	for i := 0; i < ip4Header; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return binary.BigEndian.AppendUint16(nil, ^uint16(sum+sum>>16))
}

// drain waits until the network has seen so many frames.
func drain(t *testing.T, n *Network, frames uint64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for n.Stats().FramesIn < frames {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", n.Stats())
		}
		time.Sleep(time.Millisecond) // between looks at what no event tells
	}
}

// TestHandshakeThatNeverEnds has guests that begin and never finish: the host's
// side is given up with them.
func TestHandshakeThatNeverEnds(t *testing.T) {
	closed := make(chan error, 1)
	addr := listen(t, func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		closed <- err
	})
	n, wire, _ := raw(t, Config{Decider: to(addr)})
	syn := []byte{0xc0, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	put(t, wire, out(typeIPv4, packet4(me, out4, protoTCP, syn...)))
	answer := readIP(t, wire)[ip4Header:]
	if answer[13] != 0x12 {
		t.Fatalf("flags %x, not SYN and ACK", answer[13])
	}
	n.Close()
	if err := <-closed; err == nil || err == io.EOF {
		t.Errorf("the server saw a clean end: %v", err)
	}
}
