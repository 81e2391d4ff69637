package mux

import (
	"context"
	"errors"
	"io"
	"sync"
)

// ErrHostGone is what the guest's port returns from Read when no host is
// connected. The session is then over; the next Read waits for a host.
var ErrHostGone = errors.New("no host is connected")

// guestSide is the guest's side of the channel.
type guestSide struct {
	l        *link
	version  int
	handle   func(*Stream)
	handlers sync.WaitGroup
	nonce    string // of the session; empty where there is none
}

// Serve answers greetings and runs handle for each stream that the host opens, in
// a goroutine of its own. When handle returns the stream ends. Serve returns
// after all handlers have: when port's Read returns an error other than
// ErrHostGone (nil for io.EOF), or when ctx is done and Read has returned.
func Serve(ctx context.Context, port io.ReadWriter, version int, handle func(*Stream)) error {
	g := &guestSide{l: newLink(port, false), version: version, handle: handle}
	err := g.read(ctx, port)
	g.endSession()
	g.handlers.Wait()
	g.l.writers.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (g *guestSide) read(ctx context.Context, port io.Reader) error {
	p := newParser()
	lost := false // no frame begins where the parser stands
	for {
		err := p.fill(port)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrHostGone) {
			g.endSession()
			p.reset()
			lost = false
			continue
		}
		if err != nil {
			return err
		}
		lost = g.parse(p, lost)
	}
}

// parse handles all frames that have come.
func (g *guestSide) parse(p *parser, lost bool) bool {
	start := greetingStart(kindHello)
	for {
		if lost && !p.seek(start) {
			return true
		}
		f, ok, err := p.next()
		if err != nil {
			p.skip()
			lost = true
			continue
		}
		if !ok {
			return lost
		}
		lost = !g.frame(f)
	}
}

// frame handles one frame and reports whether the next is expected behind it.
func (g *guestSide) frame(f frame) bool {
	l := g.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.kind == kindHello {
		return g.hello(f.payload)
	}
	if g.nonce == "" || l.err != nil {
		return false // the rest of a session that is over
	}
	if f.stream > l.last && f.kind >= FirstKind {
		g.open(f)
		return true
	}
	if !l.dispatch(f) {
		// Our host does not do this, so it is not our host's frame.
		g.nonce = ""
		l.endSession(ErrProtocol)
		return false
	}
	return true
}

// hello answers a greeting. Called with mu held.
func (g *guestSide) hello(payload []byte) bool {
	v, nonce, ok := parseGreeting(payload)
	if !ok {
		return false
	}
	l := g.l
	if nonce != g.nonce || l.err != nil {
		l.endSession(ErrReset)
		l.err, l.last = nil, 0
		l.session++
		g.nonce = ""
	}
	if v == g.version {
		g.nonce = nonce
	}
	l.queue = appendGreeting(l.queue, kindAck, g.version, nonce)
	l.kick()
	return true
}

// open begins a stream. Called with mu held.
func (g *guestSide) open(f frame) {
	if len(g.l.streams) >= MaxStreams {
		g.l.last = f.stream
		g.l.queue = appendFrame(g.l.queue, kindReset, f.stream, nil)
		g.l.kick()
		return
	}
	s := g.l.newStream(f.stream)
	s.receive(f)
	g.handlers.Go(func() {
		defer s.finishSend()
		g.handle(s)
	})
}

// endSession ends the streams of a host that is gone.
func (g *guestSide) endSession() {
	g.l.mu.Lock()
	defer g.l.mu.Unlock()
	g.nonce = ""
	g.l.endSession(ErrReset)
}
