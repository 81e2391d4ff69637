// Package qmp is a client of the QEMU Machine Protocol, the JSON lines by which
// a running QEMU is steered.
//
//	c, err := qmp.Connect(ctx, conn)            // greeting and capabilities
//	defer c.Close()
//	go func() { for e := range c.Events() { ... } }()
//	err = c.Execute(ctx, "stop", nil, nil)
//
// Events must be received: commands wait while EventBuffer of them lie unread.
// What QEMU sends is bounded and checked, since a guest may have taken it over.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// MaxLine bounds one message, in bytes. The longest that QEMU 7.2 sends, its
	// own schema, has 250 KiB.
	MaxLine = 1 << 20
	// EventBuffer is how many events are kept for a receiver that is behind.
	EventBuffer = 64
)

// ErrClosed is in the tree of every error of a client that has ended.
var ErrClosed = errors.New("qmp connection is closed")

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string // QEMU's error class, such as "GenericError"
	Desc    string // for people
}

// Error returns the command and QEMU's text.
func (e *Error) Error() string { return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc) }

// Event is something that happened in QEMU.
type Event struct {
	Name string
	Time time.Time
	Data json.RawMessage // may be empty
}

// Version is QEMU's version.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`
}

// String returns the version as people write it, such as "7.2.22".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// AtLeast reports whether v is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Client is a connection to one QEMU. Its methods may be called from any goroutine.
type Client struct {
	conn    net.Conn
	version Version
	events  chan Event
	writing chan struct{} // holds one token: the right to write
	closing chan struct{}
	closed  sync.Once
	ended   chan struct{} // closed when the reader has ended
	greeted bool          // for the reader alone

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan message
	err     error // why the client ended
}

// Connect waits for QEMU's greeting on conn, leaves negotiation mode and returns
// a client, which owns conn from then on. On an error conn is closed.
func Connect(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:    conn,
		events:  make(chan Event, EventBuffer),
		writing: make(chan struct{}, 1),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		waiting: map[uint64]chan message{},
	}
	greeted := make(chan Version, 1)
	go c.read(greeted)
	select {
	case c.version = <-greeted:
	case <-c.ended:
		c.Close()
		return nil, c.cause()
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("wait for qmp greeting: %w", context.Cause(ctx))
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version returns QEMU's version, from its greeting.
func (c *Client) Version() Version { return c.version }

// Events returns the channel of events. It is closed when the client ends.
func (c *Client) Events() <-chan Event { return c.events }

// Close ends the client and waits for its goroutine. It may be called twice.
func (c *Client) Close() error {
	c.closed.Do(func() {
		close(c.closing)
		c.conn.Close()
	})
	<-c.ended
	return nil
}

// Execute runs a command with args, which may be nil or anything that encodes to
// a JSON object, and decodes the answer into result, which may be nil. The error
// is an *Error where QEMU refuses. When ctx ends first the command may still
// take effect.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	id, answer, err := c.register()
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	defer c.forget(id)
	if err := c.send(ctx, request{Execute: command, Arguments: args, ID: id}); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case m := <-answer:
		return m.decode(command, result)
	case <-c.ended:
		return fmt.Errorf("qmp %s: %w", command, c.cause())
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, context.Cause(ctx))
	}
}

func (c *Client) register() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.nextID++
	answer := make(chan message, 1)
	c.waiting[c.nextID] = answer
	return c.nextID, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// send writes one request. A write that was cut short leaves half a line, after
// which nothing more can be said: the connection is closed.
func (c *Client) send(ctx context.Context, r request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-c.ended:
		return c.cause()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(cut)
	})
	_, err = c.conn.Write(append(b, '\n'))
	if !stop() {
		<-cut // the deadline stands now, and would fail the next write
		c.conn.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil
	}
	c.conn.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx) // why the write was cut short
	}
	return err
}

func (c *Client) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read takes messages until the connection ends.
func (c *Client) read(greeted chan<- Version) {
	defer close(c.ended)
	defer close(c.events)
	d := newDecoder(c.conn)
	for {
		m, err := d.next()
		if err == nil {
			err = c.take(m, greeted)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) end(err error) {
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("%w: %w", ErrClosed, err)
}

func (c *Client) take(m message, greeted chan<- Version) error {
	switch {
	case m.Greeting != nil:
		if c.greeted {
			return errors.New("a second greeting")
		}
		c.greeted = true
		greeted <- m.Greeting.Version.QEMU
		return nil
	case m.Event != "":
		select {
		case c.events <- Event{Name: m.Event, Time: m.Timestamp.time(), Data: m.Data}:
			return nil
		case <-c.closing:
			return net.ErrClosed
		}
	case m.ID == nil: // QEMU could not even parse what we sent
		return fmt.Errorf("an answer to no command: %s", m.Error.Desc)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[*m.ID]; ok {
		delete(c.waiting, *m.ID)
		answer <- m
	}
	return nil // else the caller has gone
}
