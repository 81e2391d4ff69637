package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu/qmp"
)

// machine is a QEMU process and its sockets.
type machine struct {
	name    string
	info    vmm.Info
	memory  string // path of the file behind guest memory; empty for none
	print   string // fingerprint; empty without such a file
	channel string // path of the channel's socket
	process *process
	qmp     *qmp.Client // nil while the start has not come so far, or failed before
	console *console
	stderr  *tail

	readers sync.WaitGroup // of console and events
	done    chan struct{}
	loaded  chan string // of a saved machine: how loading it ended, such as "completed"

	layering sync.Mutex
	disks    []diskState

	mu      sync.Mutex
	fresh   bool   // a saved machine that has not run again yet
	dialled bool   // a connection is open
	killed  bool   // Kill came before the end
	reason  string // of QEMU's SHUTDOWN event, such as "guest-shutdown"
	fault   string // the run state in which QEMU stopped for good, such as "internal-error"
	err     error
}

// diskState is what changes of a disk.
type diskState struct {
	readOnly bool
	file     vmm.Layer // its uppermost file as it was started with
	top      string    // name of its uppermost node
	layers   int       // that were put on top
}

var _ vmm.Machine = (*machine)(nil)

// watch reads the guest's console until QEMU ends.
func (m *machine) watch(console net.Conn) {
	m.readers.Go(func() {
		defer console.Close()
		m.console.copy(console)
	})
}

// run follows the machine until it has ended, then frees what it holds.
func (m *machine) run() {
	if m.qmp != nil {
		m.readers.Go(m.follow)
	}
	<-m.process.ended
	m.readers.Wait()
	if m.qmp != nil {
		m.qmp.Close()
	}
	os.Remove(m.channel)
	m.mu.Lock()
	m.err = m.verdict()
	m.mu.Unlock()
	close(m.done)
}

// verdict says whether the end was a good one.
func (m *machine) verdict() error {
	switch {
	case m.fault != "":
		return api.Errorf(api.Unavailable, "machine %q cannot go on: qemu reports %s", m.name, m.fault)
	case m.killed, m.reason == "guest-shutdown":
		return nil
	case m.reason == "guest-reset":
		return api.Errorf(api.Unavailable, "machine %q was reset by its guest, as a kernel does that panics", m.name).
			WithCode(vmm.CodeReset)
	}
	return api.Errorf(api.Unavailable, "machine %q: qemu ended: %s", m.name, m.process.state())
}

// follow takes QEMU's events until it ends.
func (m *machine) follow() {
	for e := range m.qmp.Events() {
		switch e.Name {
		case "SHUTDOWN":
			m.noteShutdown(e.Data)
		case "STOP":
			m.readers.Go(m.checkStop)
		case "MIGRATION":
			m.noteMigration(e.Data)
		}
	}
}

func (m *machine) noteShutdown(data json.RawMessage) {
	var d struct{ Reason string }
	if json.Unmarshal(data, &d) != nil {
		return // the verdict then rests on how the process ended
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reason = d.Reason
}

// noteMigration tells load how loading ended.
func (m *machine) noteMigration(data json.RawMessage) {
	var d struct{ Status string }
	if json.Unmarshal(data, &d) != nil || d.Status != "completed" && d.Status != "failed" {
		return // there are steps between
	}
	select {
	case m.loaded <- d.Status:
	default: // nobody loads, or the first word has not been heard yet
	}
}

// checkStop ends a machine that QEMU stopped by itself and cannot continue, as it
// does when KVM meets an instruction it cannot emulate: QEMU would wait for ever.
func (m *machine) checkStop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var s struct{ Status string }
	if m.qmp.Execute(ctx, "query-status", nil, &s) != nil {
		return // it is ending
	}
	if s.Status != "internal-error" && s.Status != "io-error" {
		return
	}
	m.mu.Lock()
	m.fault = s.Status
	m.mu.Unlock()
	m.process.kill()
}

// Dial opens the channel.
func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	if err := m.claim(); err != nil {
		return nil, err
	}
	c, err := sockpath.Dial(ctx, m.channel)
	if err == nil {
		return &channel{Conn: c, release: m.release}, nil
	}
	m.release()
	if m.process.hasEnded() {
		return nil, m.gone("dial")
	}
	return nil, api.Errorf(classOf(err), "dial the channel of machine %q: %w", m.name, err)
}

// claim takes the right to the one connection.
func (m *machine) claim() error {
	if m.process.hasEnded() {
		return m.gone("dial")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fresh {
		// QEMU would join it to the connection that was open when it was saved, and
		// the guest would not learn that it is another.
		return api.Errorf(api.Conflict, "dial the channel of machine %q: it has not been resumed yet", m.name)
	}
	if m.dialled {
		return api.Errorf(api.Conflict, "dial the channel of machine %q: it is open already", m.name)
	}
	m.dialled = true
	return nil
}

func (m *machine) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dialled = false
}

// channel is the open channel.
type channel struct {
	net.Conn
	release func()
	once    sync.Once
	err     error
}

// Close closes the channel, which may then be dialled again.
func (c *channel) Close() error {
	c.once.Do(func() {
		c.err = c.Conn.Close()
		c.release()
	})
	return c.err
}

// Pause stops the guest's processors.
func (m *machine) Pause(ctx context.Context) error { return m.query(ctx, "pause", "stop", nil, nil) }

// Resume lets the guest's processors run again. QEMU answers when they do, after
// its event RESUME. In that same turn of its main loop it tells the guest of a
// machine that continues another that its host has gone. So who dials after this
// is not taken for the host that was there when the other one was saved.
func (m *machine) Resume(ctx context.Context) error {
	if err := m.query(ctx, "resume", "cont", nil, nil); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh = false
	return nil
}

// query runs a command and gives its error a class.
func (m *machine) query(ctx context.Context, act, command string, args, result any) error {
	err := m.qmp.Execute(ctx, command, args, result)
	if err == nil {
		return nil
	}
	if errors.Is(err, qmp.ErrClosed) {
		return m.gone(act)
	}
	class := classOf(err)
	var refusal *qmp.Error
	if errors.As(err, &refusal) {
		class = api.Unavailable
	}
	return api.Errorf(class, "%s machine %q: %w", act, m.name, err)
}

func (m *machine) gone(act string) error {
	return api.Errorf(api.Unavailable, "%s machine %q: it has ended", act, m.name)
}

// Kill ends the machine and waits until all of it is gone.
func (m *machine) Kill() {
	m.mu.Lock()
	m.killed = m.killed || !m.process.hasEnded()
	m.mu.Unlock()
	m.process.kill()
	<-m.done
}

// Done is closed when the machine has ended and everything is freed.
func (m *machine) Done() <-chan struct{} { return m.done }

// Err says how the machine ended.
func (m *machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Info returns what does not change of the machine.
func (m *machine) Info() vmm.Info { return m.info }

// LastWords returns the end of QEMU's messages and of the guest's console.
func (m *machine) LastWords() string { return lastWords(m.stderr.String(), m.console.tail.String()) }
