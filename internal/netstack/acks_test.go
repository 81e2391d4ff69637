package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// wireFlow is one TCP connection that the test plays segment by segment.
type wireFlow struct {
	t        *testing.T
	wire     net.Conn
	seq, ack uint32
}

func (f *wireFlow) send(flags byte, payload ...byte) {
	f.t.Helper()
	head := []byte{0xc0, 0, 0, 80}
	head = binary.BigEndian.AppendUint32(head, f.seq)
	head = binary.BigEndian.AppendUint32(head, f.ack)
	head = append(head, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
	put(f.t, f.wire, out(typeIPv4, packet4(me, out4, protoTCP, slices.Concat(head, payload)...)))
	f.seq += uint32(len(payload)) + uint32(flags&2>>1)
}

// next returns the flags and the size of the next segment, and what it acknowledges.
func (f *wireFlow) next() (flags byte, size int, ack uint32) {
	f.t.Helper()
	segment := readIP(f.t, f.wire)[ip4Header:]
	size = len(segment) - int(segment[12]>>4)*4
	f.ack = binary.BigEndian.Uint32(segment[4:]) + uint32(size) + uint32(segment[13]&2>>1)
	return segment[13], size, binary.BigEndian.Uint32(segment[8:])
}

const (
	flagSYN = 0x02
	flagACK = 0x10
	flagPSH = 0x08
)

// openFlow makes a connection whose acknowledgements wait so long.
func openFlow(t *testing.T, serve func(*net.TCPConn), delay time.Duration) *wireFlow {
	n, wire, _ := raw(t, Config{Decider: to(listen(t, serve))})
	n.card.mu.Lock()
	n.card.acks.delay = delay
	n.card.mu.Unlock()
	f := &wireFlow{t: t, wire: wire, seq: 1000}
	f.send(flagSYN)
	if flags, _, _ := f.next(); flags != flagSYN|flagACK {
		t.Fatalf("flags %x, not SYN and ACK", flags)
	}
	f.send(flagACK)
	return f
}

// TestAnswersAcknowledge: what is answered is acknowledged by the answer alone.
func TestAnswersAcknowledge(t *testing.T) {
	f := openFlow(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) }, time.Hour)
	for range 3 {
		f.send(flagACK|flagPSH, []byte("hello")...)
		if flags, size, ack := f.next(); flags&flagACK == 0 || size != 5 || ack != f.seq {
			t.Fatalf("flags %x with %d bytes, ack %d of %d", flags, size, ack, f.seq)
		}
	}
}

// TestSecondAcknowledgementDoesNotWait, nor does the first for ever.
func TestSecondAcknowledgementDoesNotWait(t *testing.T) {
	arrived := make(chan int, 10)
	f := openFlow(t, func(c *net.TCPConn) {
		for buf := make([]byte, 10); ; {
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			arrived <- k
		}
	}, time.Hour)
	for range 5 { // the stack takes what comes together for one
		f.send(flagACK|flagPSH, []byte("hello")...)
		<-arrived
	}
	if flags, size, _ := f.next(); flags != flagACK || size != 0 {
		t.Errorf("flags %x with %d bytes", flags, size)
	}
	const delay = 50 * time.Millisecond
	f = openFlow(t, discard, delay)
	began := time.Now()
	f.send(flagACK|flagPSH, []byte("one")...)
	if flags, size, ack := f.next(); flags != flagACK || size != 0 || ack != f.seq {
		t.Errorf("flags %x with %d bytes, ack %d of %d", flags, size, ack, f.seq)
	}
	if took := time.Since(began); took < delay {
		t.Errorf("it came after %s", took)
	}
}

// TestFramesKeepTheirOrder has an end that reads late: frames that are written in
// part, queued and written at once come whole and in order.
func TestFramesKeepTheirOrder(t *testing.T) {
	ours, theirs := socketpair(t)
	defer theirs.Close()
	count := new(counters)
	c := newCard(ours, Config{}, count, new(tapHolder))
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.writeLoop(done) }()
	const frames = 4000
	var sent, passed atomic.Int64
	got := make(chan error, 1)
	go func() {
		buf := make([]byte, 2000)
		for i := range frames {
			for i%500 == 0 && sent.Load() < int64(min(i+400, frames)) {
				time.Sleep(time.Millisecond) // lets the sender get ahead; no event tells
			}
			if _, err := io.ReadFull(theirs, buf[:lengthSize]); err != nil {
				got <- err
				return
			}
			frame := buf[lengthSize : lengthSize+binary.BigEndian.Uint32(buf)]
			if _, err := io.ReadFull(theirs, frame); err != nil {
				got <- err
				return
			}
			if want := payloadOf(i); !bytes.Equal(frame[etherSize:], want) {
				t.Errorf("frame %d begins with %x, not %x", i, frame[etherSize:etherSize+8], want[:8])
				got <- nil
				return
			}
			passed.Add(1)
		}
		got <- nil
	}()
	for i := range frames {
		for int64(i)-passed.Load() > 1000 {
			time.Sleep(time.Millisecond) // it would be dropped
		}
		p := payloadOf(i)
		c.send(typeIPv4, p[:100], p[100:])
		sent.Add(1)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if d := count.queueDrops.Load(); d > 0 {
		t.Errorf("%d frames were dropped", d)
	}
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	c.Close()
	ours.Close()
}

func payloadOf(i int) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(i)), 100+i%50)
}
