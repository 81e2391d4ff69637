package netstack

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// readBuffer holds several frames for one system call.
	readBuffer = 256 << 10
	// queueBytes is what may wait for a guest that does not take its frames, as
	// one that is paused. More is dropped, as a wire does it: TCP sends it again.
	queueBytes = 4 << 20
	// keptBuffer is what a queue may keep for the next frames.
	keptBuffer = 512 << 10
)

// card is the stack's end of the wire: a stack.LinkEndpoint over a stream.
type card struct {
	conn     net.Conn
	quick    *quick // conn, or nil
	mtu      int
	mac      tcpip.LinkAddress
	guestMAC tcpip.LinkAddress
	count    *counters
	tap      *tapHolder

	mu         sync.Mutex
	dispatcher stack.NetworkDispatcher
	queue      []byte // frames with their lengths, to be written
	writing    bool   // writeLoop has frames, which go before what comes now
	closed     bool
	filled     chan struct{} // has room for one: there is something in queue
	acks       heldAcks
}

func newCard(conn net.Conn, cfg Config, count *counters, tap *tapHolder) *card {
	c := &card{
		conn: conn, mtu: cfg.MTU, count: count, tap: tap,
		mac:      tcpip.LinkAddress(cfg.GatewayMAC[:]),
		guestMAC: tcpip.LinkAddress(cfg.GuestMAC[:]),
		filled:   make(chan struct{}, 1),
	}
	c.quick = newQuick(conn)
	c.acks.init(c)
	return c
}

// send queues one frame: an Ethernet header in front of the parts.
func (c *card) send(ethertype uint16, parts ...[]byte) {
	size := etherSize
	for _, p := range parts {
		size += len(p)
	}
	var head [lengthSize + etherSize]byte
	binary.BigEndian.PutUint32(head[:], uint32(size))
	copy(head[lengthSize:], c.guestMAC)
	copy(head[lengthSize+6:], c.mac)
	binary.BigEndian.PutUint16(head[lengthSize+12:], ethertype)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(append([][]byte{head[:]}, parts...))
}

// put sends a frame with its length, in parts, or queues it. With c.mu held.
func (c *card) put(parts [][]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if c.closed || len(c.queue)+size > queueBytes {
		c.count.queueDrops.Add(1)
		return
	}
	c.tap.parts(parts)
	c.count.framesOut.Add(1)
	c.count.bytesOut.Add(uint64(size - lengthSize))
	c.queueRest(parts, c.tryWrite(parts))
}

// tryWrite writes a frame if nothing waits and the other end takes it now, as it
// mostly does: that saves a goroutine's turn. It returns how many bytes went.
func (c *card) tryWrite(parts [][]byte) int {
	if c.quick == nil || c.writing || len(c.queue) > 0 {
		return 0
	}
	return c.quick.try(parts)
}

// queueRest queues a frame without its first bytes.
func (c *card) queueRest(parts [][]byte, gone int) {
	rest := false
	for _, p := range parts {
		skip := min(gone, len(p))
		gone -= skip
		if skip < len(p) {
			c.queue = append(c.queue, p[skip:]...)
			rest = true
		}
	}
	if !rest {
		return
	}
	select {
	case c.filled <- struct{}{}:
	default:
	}
}

// writeLoop writes what is queued, as much as there is at a time, until done is
// closed or the stream fails.
func (c *card) writeLoop(done <-chan struct{}) error {
	var out []byte
	for {
		select {
		case <-c.filled:
		case <-done:
			return nil
		}
		c.mu.Lock()
		out, c.queue = c.queue, out[:0]
		c.writing = true
		c.mu.Unlock()
		_, err := c.conn.Write(out)
		c.mu.Lock()
		c.writing = false
		c.mu.Unlock()
		if err != nil {
			return unlessEnded(err)
		}
		if cap(out) > keptBuffer {
			out = nil
		}
	}
}

// readLoop hands each frame to receive until the stream ends. The frame is only
// valid during the call.
func (c *card) readLoop(receive func(frame []byte), oversized func()) error {
	var from io.Reader = c.conn
	if c.quick != nil {
		from = c.quick
	}
	r := bufio.NewReaderSize(from, readBuffer)
	buf := make([]byte, etherSize+c.mtu)
	for {
		frame, length, err := readFrame(r, buf)
		if err != nil {
			return unlessEnded(err)
		}
		c.count.framesIn.Add(1)
		c.count.bytesIn.Add(uint64(length))
		if frame == nil {
			oversized()
			continue
		}
		c.tap.frame(true, frame)
		receive(frame)
	}
}

// unlessEnded returns nil for the errors of a stream that one side has closed.
func unlessEnded(err error) error {
	for _, end := range []error{io.EOF, net.ErrClosed, io.ErrClosedPipe, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

// deliver gives a frame to the stack.
func (c *card) deliver(ethertype uint16, frame []byte) {
	c.mu.Lock()
	d := c.dispatcher
	c.mu.Unlock()
	if d == nil {
		return
	}
	view := buffer.NewViewSize(len(frame))
	copy(view.AsSlice(), frame)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer pkt.DecRef()
	if !c.ParseHeader(pkt) {
		return
	}
	pkt.PktType = tcpip.PacketHost
	if frame[0]&1 != 0 {
		pkt.PktType = tcpip.PacketMulticast
	}
	d.DeliverNetworkPacket(tcpip.NetworkProtocolNumber(ethertype), pkt)
}

// What follows makes card a stack.LinkEndpoint.

// WritePackets queues packets of the stack; never blocks, for the stack calls it
// with its locks held.
func (c *card) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pkt := range pkts.AsSlice() {
		var head [lengthSize]byte
		binary.BigEndian.PutUint32(head[:], uint32(pkt.Size()))
		parts := append([][]byte{head[:]}, pkt.AsSlices()...)
		if !c.acks.hold(pkt, parts) {
			c.put(parts)
		}
	}
	return pkts.Len(), nil
}

func (c *card) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(etherSize)).Encode(&header.EthernetFields{
		SrcAddr: c.mac,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

func (c *card) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(etherSize)
	return ok
}

func (c *card) Attach(d stack.NetworkDispatcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dispatcher = d
}

func (c *card) IsAttached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dispatcher != nil
}

func (c *card) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.queue = true, nil
	c.acks.stop()
}

func (c *card) MTU() uint32                             { return uint32(c.mtu) }
func (c *card) SetMTU(uint32)                           {}
func (c *card) MaxHeaderLength() uint16                 { return etherSize }
func (c *card) LinkAddress() tcpip.LinkAddress          { return c.mac }
func (c *card) SetLinkAddress(tcpip.LinkAddress)        {}
func (c *card) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (c *card) Wait()                                   {}
func (c *card) SetOnCloseAction(func())                 {}
func (c *card) Capabilities() stack.LinkEndpointCapabilities {
	// Frames come over a local stream, which has checksums of nobody's doing: a
	// guest that sends wrong ones harms itself alone.
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}
