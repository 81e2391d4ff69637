package vmmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// talk is an open channel to the test guest.
type talk struct {
	net.Conn
	t     *testing.T
	r     *bufio.Reader
	limit time.Duration // of one answer to expect
}

// dial opens the channel. All that is said on it is bounded by the boot time.
func (h Harness) dial(t *testing.T, m vmm.Machine) *talk {
	t.Helper()
	conn, err := m.Dial(h.context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(h.BootTime)); err != nil {
		t.Fatal(err)
	}
	return &talk{conn, t, bufio.NewReader(conn), h.BootTime}
}

func (c *talk) send(line string) {
	c.t.Helper()
	if _, err := c.Write([]byte(line + "\n")); err != nil {
		c.t.Fatal(err)
	}
}

func (c *talk) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n")
}

// ask sends a line that must come back.
func (c *talk) ask(line string) {
	c.t.Helper()
	c.send(line)
	if got := c.line(); got != line {
		c.t.Fatalf("%q came back as %q", line, got)
	}
}

// silence is how long a paused guest is given to answer nevertheless. A running
// one answers in a few milliseconds.
const silence = 300 * time.Millisecond

func (c *talk) mustBeSilent() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(silence))
	if b, err := c.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("a paused guest said %q, %v", b, err)
	}
	c.SetReadDeadline(time.Time{})
}

func (c *talk) mustBeClosed() {
	c.t.Helper()
	if b, err := c.r.Peek(1); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("read after the end: %q, %v", b, err)
	}
}

func answers(t *testing.T, h Harness, m vmm.Machine) {
	c := h.dial(t, m)
	defer c.Close()
	c.ask("hello") // waits until the guest has booted
	t.Logf("first answer %v after the start", time.Since(m.Info().Started).Round(time.Millisecond))
	const n = 200
	start := time.Now()
	for i := range n {
		c.ask(fmt.Sprint("line ", i))
	}
	t.Logf("round trip %v", time.Since(start)/n)
}

func devices(t *testing.T, h Harness, m vmm.Machine) {
	c := h.dial(t, m)
	defer c.Close()
	c.send("!cpus")
	if got := c.line(); got != "0-1" {
		t.Errorf("CPUs %q", got)
	}
	c.send("!disks")
	var size, twice int64
	line := c.line()
	if n, err := fmt.Sscanf(line, "vda:%d:ro vdb:%d:rw", &size, &twice); n != 2 || twice != 2*size {
		t.Errorf("disks %q: %v", line, err)
	}
}

// clock compares how fast time passes: a guest may have measured its processor
// badly. How long an answer takes on a busy host does not matter: the guest's
// time must lie between ours before the question and after the answer.
func clock(t *testing.T, h Harness, m vmm.Machine) {
	c := h.dial(t, m)
	defer c.Close()
	read := func() (before time.Time, guest time.Duration, after time.Time) {
		before = time.Now()
		c.send("!clock")
		ns, err := strconv.ParseInt(c.line(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return before, time.Duration(ns), time.Now()
	}
	before1, guest1, after1 := read()
	<-time.After(time.Second)
	before2, guest2, after2 := read()
	passed := (guest2 - guest1).Seconds()
	least, most := before2.Sub(after1).Seconds(), after2.Sub(before1).Seconds()
	if passed < 0.95*least || passed > 1.05*most {
		t.Errorf("%.3f s passed in the guest, %.3f to %.3f here", passed, least, most)
	}
}

func oneConnection(t *testing.T, h Harness, m vmm.Machine) {
	c := h.dial(t, m)
	for range 2 {
		if second, err := m.Dial(h.context(t)); err == nil {
			second.Close()
			t.Fatal("a second connection was opened")
		} else if api.ClassOf(err) != api.Conflict {
			t.Errorf("class %s: %v", api.ClassOf(err), err)
		}
	}
	c.ask("the first one works on")
	c.Close()
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	h.dial(t, m).Close()
}

func dialAgain(t *testing.T, h Harness, m vmm.Machine) {
	for i := range 10 {
		c := h.dial(t, m)
		c.ask(fmt.Sprint("connection ", i))
		if i%2 == 1 {
			// Closed with an answer under way: its bytes are lost, the channel is not.
			// The guest gets the line whole, so the next connection starts a new one.
			c.send("lost")
		}
		c.Close()
		if i%2 == 1 {
			h.settle(t, m)
		}
	}
}

// settle dials until the guest answers a line with that line: before it there may
// be the answer to a line of the last connection.
func (h Harness) settle(t *testing.T, m vmm.Machine) {
	t.Helper()
	c := h.dial(t, m)
	defer c.Close()
	c.send("settle")
	for range 2 {
		if strings.HasSuffix(c.line(), "settle") {
			return
		}
	}
	t.Fatal("the guest does not answer any more")
}

func dialCancelled(t *testing.T, h Harness, m vmm.Machine) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := m.Dial(ctx); err == nil {
		c.Close()
		t.Error("dialled though the context had ended")
	}
	ctx, cancel = context.WithCancel(h.context(t))
	c, err := m.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel() // bounds the dialling, not the connection
	tk := &talk{Conn: c, t: t, r: bufio.NewReader(c)}
	c.SetDeadline(time.Now().Add(h.BootTime))
	tk.ask("after the context")
}

// allBytes sends more than all buffers hold while the answers come back.
func allBytes(t *testing.T, h Harness, m vmm.Machine) {
	const lines, width = 64, 60_000
	c := h.dial(t, m)
	defer c.Close()
	line := func(i int) string { return strings.Repeat(fmt.Sprintf("%05d ", i), width/6) }
	sent := make(chan error, 1)
	go func() {
		for i := range lines {
			if _, err := c.Write([]byte(line(i) + "\n")); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	start := time.Now()
	for i := range lines {
		if got := c.line(); got != line(i) {
			t.Fatalf("line %d came back as %.80q, %d bytes", i, got, len(got))
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB/s each way", lines*width/1e6/time.Since(start).Seconds())
}
