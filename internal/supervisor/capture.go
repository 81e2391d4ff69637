package supervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/netstack"
)

const (
	// captureQueue bounds what a slow client makes us hold, in bytes. Frames that
	// find it full are counted and left out.
	captureQueue = 16 << 20
	// captureEnd bounds the writing of what is left when the capture ends.
	captureEnd = 5 * time.Second
)

// capture serves RouteCapture: packets as pcapng until the client closes its side,
// or the network ends.
func (s *Supervisor) capture(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != control.CaptureProtocol {
		control.Answer(w, nil, api.Errorf(api.Invalid, "capture packets: ask for an upgrade to %s", control.CaptureProtocol))
		return
	}
	n := s.wiring.network()
	if n == nil {
		control.Answer(w, nil, api.Errorf(api.Conflict, "capture packets of sandbox %q: it has no network", s.record().Spec.Name))
		return
	}
	q := &frameQueue{more: make(chan struct{}, 1)}
	tap, err := netstack.NewPcapng(q, 0)
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	stop, err := n.Capture(tap)
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	defer stop()
	s.server.streams.Add(1) // before Hijack: until then Shutdown waits for it
	defer s.server.streams.Done()
	conn, in, err := upgraded(w, control.CaptureProtocol)
	if err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	left := make(chan struct{})
	go func() {
		defer close(left)
		io.Copy(io.Discard, in) // the client says nothing; its end ends the capture
	}()
	defer func() {
		conn.Close()
		<-left
	}()
	defer context.AfterFunc(s.server.closing, func() { conn.Close() })()
	if q.pump(conn, left, n.Done()) == nil {
		stop()
		conn.SetWriteDeadline(time.Now().Add(captureEnd))
		q.finish(conn)
	}
}

// frameQueue holds blocks of a capture until they are written, so that packets do
// not wait for who looks at them.
type frameQueue struct {
	more chan struct{} // has one where there may be blocks

	mu      sync.Mutex
	blocks  net.Buffers
	bytes   int
	dropped uint64
}

// Write takes a block, or counts it where there is no room.
func (q *frameQueue) Write(block []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(block) > captureQueue {
		q.dropped++
		return len(block), nil
	}
	q.blocks = append(q.blocks, bytes.Clone(block))
	q.bytes += len(block)
	select {
	case q.more <- struct{}{}:
	default:
	}
	return len(block), nil
}

// flush writes what there is.
func (q *frameQueue) flush(w io.Writer) error {
	q.mu.Lock()
	blocks := q.blocks
	q.blocks, q.bytes = nil, 0
	q.mu.Unlock()
	_, err := blocks.WriteTo(w)
	return err
}

// pump writes blocks as they come, until one of the channels is closed.
func (q *frameQueue) pump(w io.Writer, left, done <-chan struct{}) error {
	for {
		select {
		case <-q.more:
			if err := q.flush(w); err != nil {
				return err
			}
		case <-left:
			return nil
		case <-done:
			return nil
		}
	}
}

// finish writes what is left, and how many frames were left out.
func (q *frameQueue) finish(w io.Writer) {
	if q.flush(w) == nil {
		w.Write(statistics(q.dropped, time.Now())) // the client may have gone
	}
}

// statistics is a block of pcapng that says how many frames a capture does not
// have: an Interface Statistics Block (draft-ietf-opsawg-pcapng, section 4.6).
func statistics(dropped uint64, at time.Time) []byte {
	const block, size, ifDrop = 5, 40, 5
	micros := uint64(at.UnixMicro())
	le := binary.LittleEndian
	b := make([]byte, 0, size)
	for _, word := range []uint32{block, size, 0 /* the only interface */, uint32(micros >> 32), uint32(micros), ifDrop | 8<<16} {
		b = le.AppendUint32(b, word)
	}
	b = le.AppendUint64(b, dropped)
	b = le.AppendUint32(b, 0) // end of options
	return le.AppendUint32(b, size)
}
