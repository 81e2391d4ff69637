package netstack

import (
	"context"
	"net"
	"sync"
	"time"
)

// serve gives the guest's side to a handler.
func (t *tcpFlow) serve(d Decision) {
	t.began = time.Now()
	p := &prepared{t: t, d: d}
	if d.DialFirst {
		allowed := d
		allowed.Verdict = Allow
		var err error
		if p.conn, err = t.n.dial(t.ctx, t.flow, allowed); err != nil {
			t.fail(err)
			return
		}
	}
	defer p.drop()
	guest, err := t.accept()
	if err != nil {
		t.end(nil, err)
		return
	}
	stop := context.AfterFunc(t.ctx, guest.abort)
	defer stop()
	if err = d.Handler(t.ctx, guest, t.flow, p.dial); err != nil {
		guest.abort()
	} else {
		_ = guest.CloseWrite() // it fails only where the guest has closed or reset
	}
	guest.finish(t.ctx, t.n.cfg.Limits.Linger)
	t.dialed = p.last()
	t.end(guest, err)
}

// prepared is the host's side of a served flow, perhaps made before its handler
// has decided.
type prepared struct {
	t *tcpFlow
	d Decision // that conn was made for

	mu     sync.Mutex
	conn   net.Conn
	dialed string // where the handler's last connection went
}

// dial is the handler's DialFunc. What the handler decided is recorded: the
// flow's first record says only that it was served.
func (p *prepared) dial(ctx context.Context, d Decision) (net.Conn, error) {
	p.t.n.record(Event{Kind: EventFlow, Flow: p.t.flow, Verdict: d.Verdict, Rule: d.Rule, Reason: d.Reason})
	conn := p.take(d)
	if conn == nil {
		var err error
		if conn, err = p.t.n.dial(ctx, p.t.flow, d); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialed = conn.RemoteAddr().String()
	return conn, nil
}

// take returns the connection that is there already if d asks for the same.
func (p *prepared) take(d Decision) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.Verdict != Allow || d.Name != p.d.Name || d.Addr != p.d.Addr || d.Port != p.d.Port {
		return nil
	}
	conn := p.conn
	p.conn = nil
	return conn
}

// drop ends a connection that the handler did not want.
func (p *prepared) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		reset(p.conn)
		p.conn = nil
	}
}

func (p *prepared) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dialed
}
