// Package mux carries many streams over the one byte stream between a host and
// the agent in its guest.
//
//	s, err := mux.Connect(ctx, conn, 1)               // host
//	st, err := s.Open(ctx, kind, payload)
//
//	err := mux.Serve(ctx, port, 1, func(st *mux.Stream) { ... }) // guest
//
// # Sessions
//
// The byte stream outlives either end: a guest that is restored from a snapshot
// may be in the middle of a frame of a host that is gone, and need not have seen
// it go. A session therefore begins with a greeting that carries a random nonce.
// A guest that reads a greeting with a new nonce ends all streams it has and
// answers with the nonce; the host drops every byte before that answer. A greeting
// that stays unanswered is repeated, later ones behind MaxFrame zero bytes, which
// complete whatever frame the guest waits for. Such a frame ends in the wrong
// byte; the guest drops it and looks for a greeting.
//
// # Streams
//
// Only the host opens streams, with rising numbers. Each side may send Window
// bytes that the other has not consumed, so that a slow reader stops only its own
// stream. Both sides assume that the other is hostile: memory is bounded by the
// windows, and a host ends the session at the first frame that breaks the rules.
package mux

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// Limits.
const (
	// Window is how many bytes, with their frames' overhead, may be on their way
	// to a stream's consumer in one direction.
	Window = 256 << 10
	// MaxStreams bounds the open streams of a session.
	MaxStreams = 1024
	// grantAt is when a consumer lets the peer send more: late enough that grants
	// are few, early enough that the peer need not stop.
	grantAt = Window / 4
	// maxQueue is how many bytes wait for the write under way before senders do.
	maxQueue = 4 * MaxFrame
)

var (
	// ErrReset says that the peer ended the stream.
	ErrReset = errors.New("the other side ended the stream")
	// ErrClosed says that the stream or session was closed on this side.
	ErrClosed = errors.New("the stream is closed")
	// ErrTooMany says that MaxStreams streams are open.
	ErrTooMany = errors.New("too many streams are open")
	// ErrProtocol says that the peer broke the rules.
	ErrProtocol = errors.New("the other side broke the guest protocol")
	// ErrTooLong says that a payload is longer than MaxPayload.
	ErrTooLong = errors.New("message too long")
)

// link is what both sides share: the streams and the frames that wait to be
// written. Whoever has queued frames writes them, and with them what others queue
// meanwhile: no goroutine has to be woken to write.
type link struct {
	w io.Writer
	// async hands every write to a goroutine, so that no sender waits in a write.
	async bool

	mu      sync.Mutex
	room    sync.Cond // the queue has room, or err is set
	streams map[uint32]*Stream
	last    uint32 // number of the last stream that was opened
	session int    // counts the sessions
	queue   []byte
	spare   []byte
	writing bool
	err     error // why there is no session
	writers sync.WaitGroup
}

func newLink(w io.Writer, async bool) *link {
	l := &link{w: w, async: async, streams: map[uint32]*Stream{}}
	l.room.L = &l.mu
	return l
}

// flush writes what is queued unless someone is writing already. Called and
// returns with mu held.
func (l *link) flush() {
	if l.writing || len(l.queue) == 0 {
		return
	}
	if l.async {
		l.kick()
		return
	}
	l.writing = true
	// A second round takes what came meanwhile; a third would let others' frames
	// hold this sender up.
	for range 2 {
		l.writeQueue()
	}
	l.writing = false
	l.kick()
}

// kick has a goroutine write what is queued. Called with mu held.
func (l *link) kick() {
	if l.writing || len(l.queue) == 0 || l.err != nil {
		return
	}
	l.writing = true
	l.writers.Go(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for len(l.queue) > 0 {
			l.writeQueue()
		}
		l.writing = false
	})
}

// writeQueue writes the queue in one write. Called and returns with mu held.
func (l *link) writeQueue() {
	if len(l.queue) == 0 {
		return
	}
	b := l.queue
	l.queue, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	_, err := l.w.Write(b)
	l.mu.Lock()
	if cap(b) <= 2*maxQueue {
		l.spare = b
	}
	if err != nil {
		l.endSession(err)
	}
	l.room.Broadcast()
}

// endSession ends all streams for the reason err and drops what is queued.
// Called with mu held.
func (l *link) endSession(err error) {
	if l.err == nil {
		l.err = err
	}
	for _, s := range l.streams {
		s.end(err)
	}
	clear(l.streams)
	l.queue = l.queue[:0]
	l.room.Broadcast()
}

// dispatch handles a frame of a known or finished stream and reports whether
// the peer kept the rules. Called with mu held.
func (l *link) dispatch(f frame) bool {
	s := l.streams[f.stream]
	if s == nil {
		// A late frame of a stream that this side has ended.
		return f.stream != 0 && f.stream <= l.last
	}
	switch {
	case f.kind >= FirstKind:
		return s.receive(f)
	case f.kind == kindCredit && len(f.payload) == 4:
		return s.addCredit(binary.BigEndian.Uint32(f.payload))
	case f.kind == kindEnd:
		if s.peerEnded {
			return false
		}
		s.peerEnded = true
		s.changed.Broadcast()
		s.drop()
		return true
	case f.kind == kindReset:
		s.end(ErrReset)
		delete(l.streams, s.id)
		return true
	}
	return false
}
