package mux

import (
	"encoding/binary"
	"io"
	"sync"
)

// Stream is one stream of a session. Messages may be sent and received by two
// goroutines at once; Close may be called from any, and twice.
type Stream struct {
	l  *link
	id uint32
	// session is which session of the link it belongs to.
	session int

	// Guarded by l.mu.
	changed   sync.Cond // anything below changed
	in        []byte    // messages that have come: kind, length (16 bits), payload
	unread    int       // bytes received and not granted again
	credit    int       // bytes that may be sent
	ended     bool      // this side sends no more
	peerEnded bool      // the peer sends no more
	err       error     // the stream is over; set once

	// Of the goroutine that receives.
	taken    []byte // what was taken from in
	batch    []byte // the rest of it
	consumed int    // bytes not granted again yet
}

// newStream adds a stream. Called with mu held.
func (l *link) newStream(id uint32) *Stream {
	s := &Stream{l: l, id: id, session: l.session, credit: Window}
	s.changed.L = &l.mu
	l.streams[id] = s
	l.last = id
	return s
}

func cost(payload int) int { return overhead + payload }

// Send sends a message of at most MaxPayload bytes, and whatever was queued
// before. It waits while the receiver is behind.
func (s *Stream) Send(kind uint8, p []byte) error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if err := s.queue(kind, p); err != nil {
		return err
	}
	s.l.flush()
	return nil
}

// Queue is Send without the write: the message goes out with the next one that
// is sent, or when there are too many.
func (s *Stream) Queue(kind uint8, p []byte) error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.queue(kind, p)
}

// Flush sends what is queued.
func (s *Stream) Flush() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.flush()
}

func (s *Stream) queue(kind uint8, p []byte) error {
	if len(p) > MaxPayload {
		return ErrTooLong
	}
	need := cost(len(p))
	for {
		switch {
		case s.err != nil:
			return s.err
		case s.ended:
			return ErrClosed
		case s.credit < need:
			s.l.flush() // what is queued may be what the receiver waits for
			if s.credit < need && s.err == nil {
				s.changed.Wait()
			}
		case len(s.l.queue)+need > maxQueue:
			s.l.flush()
			if len(s.l.queue)+need > maxQueue && s.err == nil {
				s.l.room.Wait()
			}
		default:
			s.credit -= need
			s.l.queue = appendFrame(s.l.queue, kind, s.id, p)
			return nil
		}
	}
}

// Recv returns the next message, and io.EOF after the peer's last. The payload
// is valid until the next call.
func (s *Stream) Recv() (kind uint8, p []byte, err error) {
	if len(s.batch) == 0 {
		if err := s.take(); err != nil {
			return 0, nil, err
		}
	}
	n := int(s.batch[1])<<8 | int(s.batch[2])
	kind, p, s.batch = s.batch[0], s.batch[3:3+n:3+n], s.batch[3+n:]
	s.consumed += cost(n)
	if s.consumed >= grantAt {
		s.grant()
	}
	return kind, p, nil
}

// take waits for messages and takes all that have come.
func (s *Stream) take() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for len(s.in) == 0 {
		switch {
		case s.peerEnded:
			return io.EOF
		case s.err != nil:
			return s.err
		}
		s.changed.Wait()
	}
	s.taken, s.in = s.in, s.taken[:0]
	s.batch = s.taken
	return nil
}

// Session tells streams of one session from those of others.
func (s *Stream) Session() int { return s.session }

// AwaitEnd waits until the stream is over, also for a peer that has ended and
// may still reset. It returns why: ErrClosed where both sides have ended in good
// order, or this one has closed it.
func (s *Stream) AwaitEnd() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for s.err == nil {
		s.changed.Wait()
	}
	return s.err
}

// grant lets the peer send as much as was consumed.
func (s *Stream) grant() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	n := s.consumed
	s.consumed = 0
	if s.err != nil || s.peerEnded {
		return
	}
	s.unread -= n
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	s.l.queue = appendFrame(s.l.queue, kindCredit, s.id, b[:])
	s.l.flush()
}

// receive keeps a message of the peer. Called with mu held.
func (s *Stream) receive(f frame) bool {
	n := cost(len(f.payload))
	if s.peerEnded || s.unread+n > Window {
		return false
	}
	s.unread += n
	s.in = append(s.in, f.kind, byte(len(f.payload)>>8), byte(len(f.payload)))
	s.in = append(s.in, f.payload...)
	s.changed.Broadcast()
	return true
}

// addCredit takes a grant of the peer. Called with mu held.
func (s *Stream) addCredit(n uint32) bool {
	if uint64(n) > uint64(Window-s.credit) {
		return false
	}
	s.credit += int(n)
	s.changed.Broadcast()
	return true
}

// CloseSend says that nothing more will be sent, and sends what is queued.
func (s *Stream) CloseSend() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.err != nil || s.ended {
		return nil
	}
	s.queueEnd()
	s.l.flush()
	return nil
}

func (s *Stream) queueEnd() {
	s.ended = true
	s.l.queue = appendFrame(s.l.queue, kindEnd, s.id, nil)
	s.drop()
}

// Close ends the stream. If either side has not ended, the peer is told that the
// work is to end.
func (s *Stream) Close() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.err == nil {
		if !s.ended || !s.peerEnded {
			s.l.queue = appendFrame(s.l.queue, kindReset, s.id, nil)
		}
		s.finish()
		s.l.kick()
	}
	// Nobody reads it any more. A stream that is over keeps what has come for
	// its reader only until this.
	s.in = nil
	return nil
}

// finishSend ends a stream in good order from the side that serves: what is queued
// and the end go out in one write, and the peer learns that nothing is read any more.
func (s *Stream) finishSend() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.err != nil {
		return
	}
	if !s.ended {
		s.queueEnd()
	}
	if s.err == nil {
		if !s.peerEnded {
			s.l.queue = appendFrame(s.l.queue, kindReset, s.id, nil)
		}
		s.finish()
	}
	s.l.flush()
}

// finish takes the stream out of the session. Called with mu held.
func (s *Stream) finish() {
	s.end(ErrClosed)
	delete(s.l.streams, s.id)
}

// drop takes the stream out of the session when both sides have ended. What has
// come can still be received. Called with mu held.
func (s *Stream) drop() {
	if s.ended && s.peerEnded && s.err == nil {
		s.finish()
	}
}

// end marks the stream as over. Called with mu held.
func (s *Stream) end(err error) {
	if s.err == nil {
		s.err = err
	}
	if !s.peerEnded {
		s.in = nil
	}
	s.changed.Broadcast()
}
