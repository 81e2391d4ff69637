package manager_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// A hibernation that fails at its last step leaves the sandbox and its processes
// running.
func TestFailedHibernationGoesOn(t *testing.T) {
	l := newLife(t)
	sb := l.create(smolvm.Spec{})
	l.says(sb, "count", "1")
	l.ok(os.MkdirAll(l.path(sb, "hibernated.json/in the way"), 0o700))
	if err := sb.Stop(l.ctx, smolvm.StopOptions{Hibernate: true}); err == nil {
		t.Fatal("it hibernated")
	}
	l.is(sb, api.StateRunning, "")
	// Sooner than a guest whose host has forgotten it goes on by itself.
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	if r, err := sb.Run(ctx, smolvm.ShellCommand("echo on")); err != nil || string(r.Stdout) != "on\n" {
		t.Errorf("after it: %q, %v", r.Stdout, err)
	}
	l.says(sb, "count", "2")
	l.ok(os.RemoveAll(l.path(sb, "hibernated.json")))
}

// The errand that saves a sandbox without a VM ends by itself, before or after its
// client lets go of it.
func TestSnapshotsOfAStoppedSandbox(t *testing.T) {
	l := newLife(t)
	sb := l.create(smolvm.Spec{})
	l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
	for range 40 {
		if _, err := sb.TakeSnapshot(l.ctx, smolvm.TakeSnapshot{DiskOnly: true}); err != nil {
			t.Fatal(err)
		}
	}
}
