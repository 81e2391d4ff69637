package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Session is the host's side of a connection to a guest. Its methods may be
// called from any goroutine.
type Session struct {
	l    *link
	conn io.ReadWriteCloser
	done chan struct{}
	peer int // version of the guest
}

// A greeting is repeated after helloFirst, then after twice the time before, at
// most every helloMax: the first greeting after a restore is sometimes lost, and a
// boot takes seconds under emulation. From the second repetition on the filler
// goes before it.
const (
	helloFirst   = 25 * time.Millisecond
	helloMax     = time.Second
	fillerAfter  = 2
	versionLimit = 0xff
)

// Connect greets the guest behind conn and waits for its answer. The context
// bounds this call only. Connect owns conn from now on, and closes it on failure.
func Connect(ctx context.Context, conn io.ReadWriteCloser, version int) (*Session, error) {
	if version < 0 || version > versionLimit {
		panic("mux: the version has two hex digits")
	}
	s := &Session{l: newLink(conn, true), conn: conn, done: make(chan struct{})}
	nonce := newNonce()
	answered := make(chan int, 1)
	go s.read(nonce, answered)
	err := s.greet(ctx, version, nonce, answered)
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// newNonce returns what no session before had. It need not be secret: the guest
// reads it. crypto/rand would put 32 MiB of its own into the agent's address space.
func newNonce() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

// greet repeats the greeting until it is answered.
func (s *Session) greet(ctx context.Context, version int, nonce string, answered <-chan int) error {
	wait := helloFirst
	for n := 0; ; n++ {
		s.hello(version, nonce, n >= fillerAfter)
		t := time.NewTimer(wait)
		select {
		case s.peer = <-answered:
			t.Stop()
			if s.peer != version {
				return fmt.Errorf("the guest speaks version %d of the protocol, not %d", s.peer, version)
			}
			return nil
		case <-s.done:
			t.Stop()
			return s.Err()
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
		wait = min(2*wait, helloMax)
	}
}

// hello sends a greeting unless the one before still waits to be written.
func (s *Session) hello(version int, nonce string, filler bool) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing || l.err != nil {
		return
	}
	if filler {
		l.queue = append(l.queue, make([]byte, MaxFrame)...)
	}
	l.queue = appendGreeting(l.queue, kindHello, version, nonce)
	l.kick()
}

// read is the goroutine that reads until the session ends.
func (s *Session) read(nonce string, answered chan<- int) {
	p := newParser()
	err := s.readAnswer(p, nonce, answered)
	for err == nil {
		if err = s.handle(p, nonce); err == nil {
			err = p.fill(s.conn)
		}
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the guest's channel was closed: %w", io.ErrUnexpectedEOF)
	}
	s.l.mu.Lock()
	s.l.endSession(err)
	s.l.mu.Unlock()
	s.conn.Close()
	s.l.writers.Wait()
	close(s.done)
}

// readAnswer drops everything before the answer to our greeting.
func (s *Session) readAnswer(p *parser, nonce string, answered chan<- int) error {
	start := greetingStart(kindAck)
	for {
		for p.seek(start) {
			f, ok, err := p.next()
			if err == nil && !ok {
				break
			}
			if v, n, good := parseGreeting(f.payload); err == nil && good && n == nonce {
				answered <- v
				return nil
			}
			if err != nil {
				p.skip()
			}
		}
		if err := p.fill(s.conn); err != nil {
			return err
		}
	}
}

// handle handles all frames that have come.
func (s *Session) handle(p *parser, nonce string) error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.err != nil {
		return s.l.err
	}
	for {
		f, ok, err := p.next()
		if err != nil {
			return ErrProtocol
		}
		if !ok {
			return nil
		}
		if f.kind == kindAck {
			// A greeting that was repeated while its answer was on the way.
			if _, n, ok := parseGreeting(f.payload); !ok || n != nonce {
				return ErrProtocol
			}
			continue
		}
		if !s.l.dispatch(f) {
			return ErrProtocol
		}
	}
}

// Open opens a stream with its first message. The context bounds this call only.
func (s *Session) Open(ctx context.Context, kind uint8, p []byte) (*Stream, error) {
	if len(p) > MaxPayload {
		return nil, ErrTooLong
	}
	l := s.l
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.room.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case l.err != nil:
			return nil, l.err
		case len(l.streams) >= MaxStreams:
			return nil, ErrTooMany
		case len(l.queue)+cost(len(p)) > maxQueue:
			l.room.Wait()
			continue
		}
		st := l.newStream(l.last + 1)
		st.credit -= cost(len(p))
		l.queue = appendFrame(l.queue, kind, st.id, p)
		l.flush()
		return st, nil
	}
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended, and nil before it has.
func (s *Session) Err() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.err
}

// Close ends the session and all its streams, closes the connection and waits
// for the session's goroutines.
func (s *Session) Close() error {
	s.l.mu.Lock()
	s.l.endSession(ErrClosed)
	s.l.mu.Unlock()
	s.conn.Close()
	<-s.done
	return nil
}
