package vmmtest

import (
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

func info(t *testing.T, h Harness, m vmm.Machine, c vmm.Config) {
	caps, err := h.Driver.Probe(h.context(t))
	if err != nil {
		t.Fatal(err)
	}
	i := m.Info()
	if i.Version != caps.Version {
		t.Errorf("version %q, probed %q", i.Version, caps.Version)
	}
	want := c.Accel
	if want == "" || want == api.AccelAuto {
		want = caps.Accel
	}
	if i.Accel != want {
		t.Errorf("accelerator %q, want %q", i.Accel, want)
	}
	if i.Machine == "" {
		t.Error("no machine type")
	}
	if since := time.Since(i.Started); since < 0 || since > h.BootTime {
		t.Errorf("started %v ago", since)
	}
}

func killed(t *testing.T, h Harness) {
	r := look(t)
	c := h.Config(t)
	m := h.start(t, c)
	select {
	case <-m.Done():
		t.Fatalf("ended before it was killed: %v", m.Err())
	default:
	}
	if err := m.Err(); err != nil {
		t.Errorf("error of a running machine: %v", err)
	}
	m.Kill()
	select {
	case <-m.Done():
	default:
		t.Error("Done is open after Kill")
	}
	r.same(t, c)
	m.Kill()
	if err := m.Err(); err != nil {
		t.Errorf("error of a killed machine: %v", err)
	}
	mustBeGone(t, h, m)
}

// mustBeGone calls the methods that need a running machine.
func mustBeGone(t *testing.T, h Harness, m vmm.Machine) {
	t.Helper()
	_, dialErr := m.Dial(h.context(t))
	for act, err := range map[string]error{
		"dial":   dialErr,
		"pause":  m.Pause(h.context(t)),
		"resume": m.Resume(h.context(t)),
	} {
		if err == nil || api.ClassOf(err) != api.Unavailable {
			t.Errorf("%s after the end: %v", act, err)
		}
	}
}

// atOnce calls everything at once, for the race detector, and kills in between.
func atOnce(t *testing.T, h Harness) {
	r := look(t)
	c := h.Config(t)
	m := h.start(t, c)
	ctx := h.context(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { m.Pause(ctx) })
		wg.Go(func() { m.Resume(ctx) })
		wg.Go(func() {
			if conn, err := m.Dial(ctx); err == nil {
				conn.Close()
			}
		})
		wg.Go(func() { m.LastWords(); m.Info(); m.Err() })
	}
	for range 3 {
		wg.Go(m.Kill)
	}
	wg.Wait()
	if err := m.Err(); err != nil {
		t.Errorf("error of a killed machine: %v", err)
	}
	r.same(t, c)
}

func vmmDies(t *testing.T, h Harness) {
	r := look(t)
	c := h.Config(t)
	m := h.start(t, c)
	if m.Info().PID == 0 {
		return // a VMM within this process cannot die alone
	}
	if err := unix.Kill(m.Info().PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.ended(t, m)
	if err := m.Err(); err == nil || api.ClassOf(err) != api.Unavailable {
		t.Errorf("error of a machine whose VMM died: %v", err)
	}
	mustBeGone(t, h, m)
	r.same(t, c)
}

func reset(t *testing.T, h Harness) {
	r := look(t)
	c := h.Config(t)
	want := h.Broken(&c)
	m := h.start(t, c)
	h.ended(t, m)
	e := api.AsError(m.Err())
	if m.Err() == nil || e.Class != api.Unavailable || e.Code != vmm.CodeReset {
		t.Errorf("class %s, code %q: %v", e.Class, e.Code, m.Err())
	}
	if words := m.LastWords(); !strings.Contains(words, want) {
		t.Errorf("%q is not in the last words:\n%s", want, words)
	}
	mustBeGone(t, h, m)
	r.same(t, c)
}

func pauseResume(t *testing.T, h Harness, m vmm.Machine) {
	c := h.dial(t, m)
	defer c.Close()
	c.ask("before")
	for range 2 {
		if err := m.Pause(h.context(t)); err != nil {
			t.Fatal(err)
		}
	}
	c.send("while paused")
	c.mustBeSilent()
	for range 2 {
		if err := m.Resume(h.context(t)); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.line(); got != "while paused" {
		t.Errorf("after resume: %q", got)
	}
	c.ask("after")
}

func dialPaused(t *testing.T, h Harness, m vmm.Machine) {
	if err := m.Pause(h.context(t)); err != nil {
		t.Fatal(err)
	}
	c := h.dial(t, m)
	defer c.Close()
	if err := m.Resume(h.context(t)); err != nil {
		t.Fatal(err)
	}
	c.ask("after resume")
}

// powerOff ends the machine from within while the channel is open.
func powerOff(t *testing.T, h Harness, m vmm.Machine) {
	c := h.dial(t, m)
	defer c.Close()
	c.send("!poweroff")
	h.ended(t, m)
	if err := m.Err(); err != nil {
		t.Errorf("error of a machine that was powered off: %v\n%s", err, m.LastWords())
	}
	c.mustBeClosed()
	mustBeGone(t, h, m)
	m.Kill()
	if err := m.Err(); err != nil {
		t.Errorf("kill after the end made an error: %v", err)
	}
}
