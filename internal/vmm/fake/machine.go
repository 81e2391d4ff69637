package fake

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Machine is a fake machine. Beyond vmm.Machine it has what a guest can do.
type Machine struct {
	driver *Driver
	name   string
	info   vmm.Info
	guest  func(net.Conn)

	ending chan struct{} // closed when the machine begins to end
	done   chan struct{}
	conns  sync.WaitGroup

	print  string   // fingerprint
	memory []byte   // nil without Config.Memory
	fresh  bool     // restored and not resumed yet; guarded by mu
	disks  []disk   // guarded by mu
	wire   net.Conn // of the network card; nil where there is none

	mu     sync.Mutex
	gate   sync.Cond // signalled when paused or ended changes
	paused bool
	ended  bool
	line   *line // the open connection
	before *line // the one before it, whose guest may not have returned yet
	words  string
	err    error
}

var _ vmm.Saver = (*Machine)(nil)

// PowerOff ends the machine as a guest does that powers off.
func (m *Machine) PowerOff() { m.end(nil) }

// Reset ends the machine as a kernel does that panics with text on its console.
func (m *Machine) Reset(text string) {
	m.Say(text)
	m.end(api.Errorf(api.Unavailable, "machine %q was reset by its guest", m.name).WithCode(vmm.CodeReset))
}

// Crash ends the machine as the death of its VMM does.
func (m *Machine) Crash() {
	m.end(api.Errorf(api.Unavailable, "machine %q: the VMM died", m.name))
}

// Say adds text to the machine's last words.
func (m *Machine) Say(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.words += text
}

// HangUp breaks the open connection from the guest's side.
func (m *Machine) HangUp() {
	m.mu.Lock()
	l := m.line
	m.mu.Unlock()
	if l != nil {
		l.cut()
	}
}

// end ends the machine once. It does not wait: the guest itself may call it.
func (m *Machine) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.ended = true
	close(m.ending)
	if m.wire != nil {
		m.wire.SetDeadline(time.Unix(1, 0)) // a guest that waits for a frame returns
	}
	for _, l := range []*line{m.line, m.before} {
		if l != nil {
			l.cut()
		}
	}
	m.gate.Broadcast()
	go func() {
		m.conns.Wait()
		m.unmap()
		if m.wire != nil {
			m.wire.Close()
		}
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
		close(m.done)
	}()
}

func (m *Machine) hasEnded() bool {
	select {
	case <-m.ending:
		return true
	default:
		return false
	}
}

// Kill ends the machine and waits until its guest has returned.
func (m *Machine) Kill() {
	m.driver.at(context.Background(), Kill)
	m.end(nil)
	<-m.done
}

// Pause makes the guest's reads and writes wait.
func (m *Machine) Pause(ctx context.Context) error { return m.set(ctx, Pause, true) }

// Resume lets them go on.
func (m *Machine) Resume(ctx context.Context) error { return m.set(ctx, Resume, false) }

func (m *Machine) set(ctx context.Context, step Step, paused bool) error {
	if err := m.driver.at(ctx, step); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return m.gone(string(step))
	}
	m.paused = paused
	m.fresh = m.fresh && paused
	m.gate.Broadcast()
	return nil
}

func (m *Machine) gone(act string) error {
	return api.Errorf(api.Unavailable, "%s machine %q: it has ended", act, m.name)
}

// Dial opens the channel.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	if err := m.driver.at(ctx, Dial); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ended:
		return nil, m.gone(string(Dial))
	case m.fresh:
		return nil, api.Errorf(api.Conflict, "dial the channel of machine %q: it has not been resumed yet", m.name)
	case m.line != nil:
		return nil, api.Errorf(api.Conflict, "dial the channel of machine %q: it is open already", m.name)
	}
	l, err := newLine(m)
	if err != nil {
		return nil, fmt.Errorf("dial the channel of machine %q: %w", m.name, err)
	}
	before := m.before
	m.line, m.before = l, l
	m.conns.Go(func() { l.serve(before) })
	return l, nil
}

// release makes place for another connection.
func (m *Machine) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = nil
}

// wait returns when the guest may run, and false where it never will again.
func (m *Machine) wait() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.paused && !m.ended {
		m.gate.Wait()
	}
	return !m.ended
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err says how the machine ended.
func (m *Machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Info returns what does not change of the machine.
func (m *Machine) Info() vmm.Info { return m.info }

// LastWords returns what was given to Say and Reset.
func (m *Machine) LastWords() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.words
}

// gated is the guest's end of a connection: it stands still while the machine is
// paused.
type gated struct {
	net.Conn
	m *Machine
}

// Read reads and then waits until the guest may run: what came while it was
// paused is not lost.
func (g gated) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if !g.m.wait() {
		return 0, io.EOF
	}
	return n, err
}

// Write waits until the guest may run and writes.
func (g gated) Write(p []byte) (int, error) {
	if !g.m.wait() {
		return 0, io.ErrClosedPipe
	}
	return g.Conn.Write(p)
}
