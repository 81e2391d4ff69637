package guesttest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/guesttest"
)

// copies is how many guests continue from one.
const copies = 3

// TestVMCopies continues one saved guest several times: no process of it runs on
// before the copy is one of its own, and all then go on where they were.
func TestVMCopies(t *testing.T) {
	m := guesttest.BootToSave(t)
	v := &vm{m: m}
	v.dial(t)
	v.copyOf(t, "x", guest.Setup{})
	v.warmUp(t)
	// It notes each boot id that it sees, and counts.
	v.background(t, `echo ready; i=0; while :; do i=$((i+1)); read id < /proc/sys/kernel/random/boot_id; echo "$i $id" >> /run/seen; done`)
	v.sh(t, "until [ $(wc -l < /run/seen) -gt 50 ]; do sleep 0.01; done")
	v.freeze(t)
	before := v.read(t, "/run/seen")
	saved := m.Save(t)
	v.s.Close()
	seen := map[string]bool{}
	for range copies {
		v.testCopy(t, saved, before, seen)
	}
}

// warmUp does what a host does before it saves a template.
func (v *vm) warmUp(t *testing.T) {
	t.Helper()
	for range 3 {
		v.sh(t, "true")
	}
	v.copyOf(t, "x", guest.Setup{Resumed: true, Copy: true})
}

func (v *vm) read(t *testing.T, path string) string {
	t.Helper()
	_, r, err := v.c.ReadFile(ctxOf(t), guest.Read{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	for buf := make([]byte, 4096); ; {
		n, err := r.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
	}
}

func (v *vm) testCopy(t *testing.T, saved *guesttest.Saved, before string, seen map[string]bool) {
	c := &vm{m: saved.Copy(t)}
	defer c.m.Kill()
	var laps []string
	began, cpu := time.Now(), c.m.CPU()
	lap := func(name string) {
		now, used := time.Now(), c.m.CPU()
		laps = append(laps, fmt.Sprintf("%s %v (CPU %v)", name, now.Sub(began).Round(time.Millisecond), (used-cpu).Round(time.Millisecond)))
		began, cpu = now, used
	}
	c.dial(t)
	defer c.s.Close()
	lap("greeting")
	r := c.copyOf(t, "copy", guest.Setup{Resumed: true, Copy: true})
	lap("setup")
	c.sh(t, "true")
	lap("first command")
	t.Log(laps, r.StepsUS)
	if len(r.Failed) > 0 {
		t.Errorf("%q", r.Failed)
	}
	c.sh(t, "n=$(wc -l < /run/seen); until [ $(wc -l < /run/seen) -gt $((n+5)) ]; do sleep 0.01; done")
	now := c.read(t, "/run/seen")
	after, ok := strings.CutPrefix(now, before)
	if !ok {
		t.Fatal("it did not go on from where it was saved")
	}
	lines := strings.Split(strings.TrimSpace(after), "\n")
	// A step that was under way may have read the id that the template had.
	for _, l := range lines[min(2, len(lines)):] {
		if !strings.HasSuffix(l, " "+r.Info.BootID) {
			t.Errorf("a process ran on as the template: %q, not %s", l, r.Info.BootID)
			break
		}
	}
	for _, id := range []string{r.Info.BootID, c.sh(t, "cat /etc/machine-id"), c.sh(t, "head -c16 /dev/urandom | base64")} {
		if seen[id] {
			t.Errorf("two copies have %s", id)
		}
		seen[id] = true
	}
	// Fewer seconds than any guest was saved for.
	if got := c.sh(t, "date +%s.%N"); !near(got, time.Now()) {
		t.Errorf("the clock says %s", got)
	}
}

func near(unix string, now time.Time) bool {
	s, _, _ := strings.Cut(unix, ".")
	sec, err := time.ParseDuration(s + "s")
	return err == nil && now.Sub(time.Unix(int64(sec/time.Second), 0)).Abs() < 3*time.Second
}
