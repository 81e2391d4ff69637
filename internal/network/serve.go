package network

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/egress/sniff"
	"github.com/smolvm/smolvm/internal/intercept"
	"github.com/smolvm/smolvm/internal/netstack"
)

const (
	// firstBytes is how long a client may take to say what it is once it has begun,
	// or where nothing can be said to it before.
	firstBytes = 30 * time.Second
	// sniffStep is how much is read at first: most client hellos fit.
	sniffStep = 4 << 10
	maxSniff  = sniff.MaxHello + sniffStep
)

// past is a deadline that ends reads and writes at once.
var past = time.Unix(1, 0)

// session is a TCP flow whose guest we have answered.
type session struct {
	f     *flow
	guest net.Conn
	dial  netstack.DialFunc

	seen  []byte // what the guest has said so far
	kind  sniff.Kind
	head  sniff.Head // of HTTP1, where it could be read
	bad   error      // why it could not
	early *early     // the server's side, where it was dialled before the guest spoke
}

// serve returns the handler of a flow about which d was decided so far.
func (f *flow) serve(d egress.Decision) netstack.Handler {
	return func(ctx context.Context, guest net.Conn, _ netstack.Flow, dial netstack.DialFunc) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		f.mu.Lock()
		f.cancel = cancel
		f.mu.Unlock()
		stop := context.AfterFunc(ctx, func() { _ = guest.SetDeadline(past) })
		defer stop()
		s := &session{f: f, guest: guest, dial: dial}
		defer s.hangUp()
		err := s.run(ctx, d)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
}

func (s *session) run(ctx context.Context, d egress.Decision) error {
	if d.Action == egress.Allow { // dialling took its time, and policy may have changed
		if d = s.f.decide(s.f.request()); d.Action != egress.Allow {
			return api.Errorf(api.Denied, "%s", d.Why)
		}
	}
	if d.Action == egress.Allow && !s.f.n.curious() {
		return s.pass(ctx, d)
	}
	if d.Action == egress.Allow || d.Action == egress.More && d.Dial {
		if err := s.dialEarly(ctx, d); err != nil {
			return err
		}
	}
	if err := s.sniff(); err != nil {
		return s.silent(ctx, d, err)
	}
	if err := s.early.stop(); err != nil {
		return err
	}
	s.f.alarmBytes(s.kind, s.seen)
	if d.Action != egress.Deny {
		d = s.f.settle(ctx, s.f.request())
	}
	switch {
	case d.Action == egress.Deny:
		return s.refuse(ctx, d)
	case d.Action == egress.More || s.wanted():
		return s.open(ctx, d)
	}
	return s.pass(ctx, d)
}

// settle decides about a request, by asking a person if it must be. It answers
// Allow, Deny or More.
func (f *flow) settle(ctx context.Context, req egress.Request) egress.Decision {
	d := f.decide(req)
	if d.Action != egress.Ask {
		return d
	}
	answer := make(chan verdict, 1)
	f.n.asks.join(ctx, f, req, d, func(v verdict) { answer <- v })
	select {
	case v := <-answer:
		return f.answered(req, d, v)
	case <-ctx.Done():
		return egress.Decision{Action: egress.Deny, Rule: d.Rule, RuleID: d.RuleID, Code: codeGone, Why: "The guest gave up."}
	}
}

// sniff reads the guest's first bytes until it is clear what they are, and lets
// the flow learn that.
func (s *session) sniff() error {
	buf := make([]byte, 0, sniffStep)
	if s.early == nil {
		_ = s.guest.SetReadDeadline(time.Now().Add(firstBytes))
	}
	defer s.guest.SetReadDeadline(time.Time{})
	for {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(4*cap(buf), maxSniff))
			copy(grown, buf)
			buf = grown
		}
		k, err := s.guest.Read(buf[len(buf):cap(buf)])
		if k > 0 && len(buf) == 0 {
			_ = s.guest.SetReadDeadline(time.Now().Add(firstBytes))
		}
		buf = buf[:len(buf)+k]
		s.seen = buf
		ended := errors.Is(err, io.EOF)
		if err != nil && (!ended || len(buf) == 0) {
			return err
		}
		if s.tell(ended || len(buf) >= maxSniff) {
			return nil
		}
	}
}

// tell says what the bytes seen so far are, if that is clear or must be.
func (s *session) tell(last bool) bool {
	s.kind = sniff.Detect(s.seen)
	switch s.kind {
	case sniff.Short:
		if last {
			s.kind = sniff.Other
		}
	case sniff.TLS:
		hello, err := sniff.ReadHello(s.seen)
		if errors.Is(err, sniff.ErrShort) && !last {
			return false
		}
		s.f.learn(func(r *egress.Request) {
			r.App = egress.AppTLS
			if err == nil {
				r.TLS = &egress.TLS{SNI: hello.SNI, ECH: hello.ECH}
			}
		})
		return true
	case sniff.HTTP1:
		head, err := sniff.ReadHead(s.seen)
		if errors.Is(err, sniff.ErrShort) && !last {
			return false
		}
		s.head, s.bad = head, err
	}
	if s.kind == sniff.Short {
		return false
	}
	s.f.learn(func(r *egress.Request) {
		r.App = egress.AppOther
		if s.kind == sniff.HTTP1 || s.kind == sniff.Preface {
			r.App = egress.AppHTTP
		}
	})
	return true
}

// silent ends a flow whose client said nothing that could be decided by.
func (s *session) silent(ctx context.Context, d egress.Decision, err error) error {
	if !s.f.isSettled() {
		why := "The client said nothing, and its first bytes are needed: " + d.Why
		s.f.findOwner(ctx)
		s.f.settled(egress.Decision{Action: egress.Deny, Rule: d.Rule, RuleID: d.RuleID, Code: codeSilent, Why: why})
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

const codeSilent egress.Code = "silent" // the client said nothing to decide by

// pass lets a flow out as it is.
func (s *session) pass(ctx context.Context, d egress.Decision) error {
	s.f.settled(d)
	s.f.pass()
	host, err := s.connect(ctx, d)
	if err != nil {
		return err
	}
	if len(s.seen) > 0 {
		stop := context.AfterFunc(ctx, func() { _ = host.SetDeadline(past) })
		_, err := host.Write(s.seen)
		if stop(); err != nil {
			host.Close()
			return err
		}
		s.seen = nil
	}
	return netstack.Relay(ctx, s.guest, host)
}

// connect dials the server, or takes the connection that is there.
func (s *session) connect(ctx context.Context, d egress.Decision) (net.Conn, error) {
	if host := s.early.take(); host != nil {
		return host, nil
	}
	return s.dial(ctx, netstack.Decision{Verdict: netstack.Allow, Rule: d.RuleID, Reason: d.Why})
}

// refuse ends a flow so that its client says why, where it can.
func (s *session) refuse(ctx context.Context, d egress.Decision) error {
	s.f.findOwner(ctx)
	s.f.settled(d)
	var page []byte
	switch s.kind {
	case sniff.HTTP1:
		r := &intercept.Request{Method: s.head.Method, Scheme: "http", Host: s.head.Host, Path: s.head.Path, Proto: "HTTP/1.1"}
		page = intercept.Denied(r, s.f.n.answer(d))
	case sniff.TLS:
		page = accessDenied
	}
	if len(page) == 0 {
		return api.Errorf(api.Denied, "%s", d.Why)
	}
	_, err := s.guest.Write(page)
	return err
}

// accessDenied is a fatal alert of that name (RFC 8446 section 6), in a record as
// all versions of TLS take it.
var accessDenied = []byte{21, 3, 3, 0, 2, 2, 49}

// hangUp closes what was dialled and not used.
func (s *session) hangUp() {
	if host := s.early.take(); host != nil {
		host.Close()
	}
}

// early is a server's side that was dialled before the guest spoke. What the server
// says meanwhile goes to the guest: in some protocols it speaks first.
type early struct {
	host, guest net.Conn
	done        chan struct{}
	err         error // valid after done
}

func (s *session) dialEarly(ctx context.Context, d egress.Decision) error {
	host, err := s.dial(ctx, netstack.Decision{Verdict: netstack.Allow, Rule: d.RuleID, Reason: d.Why})
	if err != nil {
		return err
	}
	s.early = &early{host: host, guest: s.guest, done: make(chan struct{})}
	go s.early.run()
	return nil
}

func (e *early) run() {
	defer close(e.done)
	buf := make([]byte, sniffStep)
	for {
		k, err := e.host.Read(buf)
		if k > 0 {
			if _, err := e.guest.Write(buf[:k]); err != nil {
				e.err = err
				return
			}
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF): // a server that says something and ends
			e.err = closeWrite(e.guest)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			e.err = err
		}
		return
	}
}

// stop ends the copy. The connection may then be used; an error means that it
// cannot.
func (e *early) stop() error {
	if e == nil || e.host == nil {
		return nil
	}
	_ = e.host.SetReadDeadline(past)
	_ = e.guest.SetWriteDeadline(past)
	<-e.done
	_ = e.host.SetReadDeadline(time.Time{})
	_ = e.guest.SetWriteDeadline(time.Time{})
	return e.err
}

// take returns the connection, once.
func (e *early) take() net.Conn {
	if e == nil || e.host == nil {
		return nil
	}
	_ = e.stop()
	host := e.host
	e.host = nil
	return host
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
