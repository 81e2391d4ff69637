package smolvm_test

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
)

// savedMoment is a moment of something that saves or continues a sandbox called
// victim.
type savedMoment struct {
	moment
	before func(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox) // may be nil
}

func vmms(n int) func(string) bool {
	return func(home string) bool { return len(victims(home, "vmm")) >= n }
}

func hibernated(t *testing.T, _ *smolvm.Client, sb *smolvm.Sandbox) {
	if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
		t.Fatal(err)
	}
}

func snapped(t *testing.T, _ *smolvm.Client, sb *smolvm.Sandbox) {
	must[smolvm.Snapshot](t)(sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "s"}))
}

func checkpointed(t *testing.T, _ *smolvm.Client, sb *smolvm.Sandbox) {
	must[smolvm.Step](t)(sb.Checkpoint(t.Context(), smolvm.Checkpoint{}))
}

func pooled(t *testing.T, c *smolvm.Client, _ *smolvm.Sandbox) {
	must[smolvm.Pool](t)(c.SetPool(t.Context(), smolvm.Pool{MemoryMiB: 256, Size: 1}))
	eventually(t, func() bool { return must[[]smolvm.Pool](t)(c.Pools(t.Context()))[0].Ready == 1 })
}

var savedMoments = []savedMoment{
	{moment{"hibernate: saving", []string{"hibernate", "victim"}, glob("sandboxes/*/parts/devices-*")}, nil},
	{moment{"hibernate: saved", []string{"hibernate", "victim"}, glob("sandboxes/*/hibernated.json")}, nil},
	{moment{"wake: VMM started", []string{"start", "victim"}, vmms(1)}, hibernated},
	{moment{"snapshot: saving", []string{"snapshot", "create", "victim", "new"}, glob("tmp/point-*/point/parts/devices-*")}, nil},
	{moment{"snapshot: sealing", []string{"snapshot", "create", "victim", "new"}, glob("tmp/point-*/point/parts/delta-*")}, nil},
	{moment{"from snapshot: linked", []string{"create", "--from-snapshot", "s"}, glob("tmp/create-*/sandbox/parts/devices-*")}, snapped},
	{moment{"from snapshot: VMM started", []string{"create", "--from-snapshot", "s"}, vmms(2)}, snapped},
	{moment{"fork: children come up", []string{"fork", "victim", "-n", "2"}, vmms(2)}, nil},
	{moment{"checkpoint: saving", []string{"checkpoint", "victim"}, glob("sandboxes/*/parts/delta-*")}, nil},
	{moment{"rewind: between two VMs", []string{"rewind", "victim", "0"}, func(h string) bool { return !victim(h, "vmm") }}, checkpointed},
	{moment{"pool: member comes up", []string{"pool", "set", "base", "--size", "1", "--memory", "256"}, vmms(2)}, nil},
	{moment{"pool: claim", []string{"create", "--memory", "256"}, glob("names/[^v.]*")}, pooled},
}

// TestVMCrashSaved kills all supervisors or all VMMs at each moment. Afterwards the
// sandbox holds its work, what was saved before is as it was, what was being saved is
// there as a whole or not at all, and nothing else is left.
func TestVMCrashSaved(t *testing.T) {
	c := client(t)
	for _, m := range savedMoments {
		for _, who := range []string{"supervisor", "vmm"} {
			t.Run(m.name+", kill "+who, func(t *testing.T) { crashSaved(t, c, m, who) })
		}
	}
}

func crashSaved(t *testing.T, c *smolvm.Client, m savedMoment, who string) {
	sb := must[*smolvm.Sandbox](t)(c.Create(t.Context(), smolvm.Spec{Name: "victim", MemoryMiB: 256}))
	t.Cleanup(func() { sb.Remove(context.Background()) }) // of a test that failed; the next has the same name
	sh(t, sb, "echo work > /root/work; sync")
	if m.before != nil {
		m.before(t, c, sb)
	}
	cmd, out := startClient(t, c, m.args)
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	awaitMoment(t, m.moment, c.Home, ended)
	for _, p := range victims(c.Home, who) {
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("the client hangs: %s", out)
	}
	must[[]smolvm.Pool](t)(c.DrainPools(t.Context(), ""))
	must[smolvm.Collected](t)(c.GC(t.Context(), false))
	wholeSnapshots(t, c)
	info := settled(t, sb)
	t.Logf("it is %s (%s); its client said %s", info.State, info.Reason, out)
	if info.State != api.StateRunning {
		if err := sb.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := sh(t, sb, "cat /root/work"); got != "work" {
		t.Errorf("it holds %q", got)
	}
	for _, s := range must[smolvm.History](t)(sb.History(t.Context())).Steps {
		if err := sb.Rewind(t.Context(), s.Step); err != nil {
			t.Errorf("step %d: %v", s.Step, err)
		}
	}
	clearAway(t, c)
}

// settled describes a sandbox whose supervisor has learnt, if its VMM was killed, of
// that.
func settled(t *testing.T, sb *smolvm.Sandbox) (info smolvm.Info) {
	t.Helper()
	eventually(t, func() bool {
		info = must[smolvm.Info](t)(sb.Info(t.Context()))
		if info.State != api.StateRunning {
			return true
		}
		_, err := sb.Run(t.Context(), smolvm.ShellCommand("true"))
		return err == nil
	})
	return info
}

// wholeSnapshots verifies and removes all snapshots.
func wholeSnapshots(t *testing.T, c *smolvm.Client) {
	t.Helper()
	for _, s := range must[[]smolvm.Snapshot](t)(c.Snapshots(t.Context())) {
		must[smolvm.Snapshot](t)(c.GetSnapshot(t.Context(), s.Name))
		if err := c.RemoveSnapshot(t.Context(), s.Name); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(c.Home, "snapshots/*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// clearAway removes all sandboxes, and then finds nothing.
func clearAway(t *testing.T, c *smolvm.Client) {
	t.Helper()
	for _, s := range must[[]smolvm.Info](t)(c.List(t.Context(), smolvm.ListOptions{})) {
		sb, err := c.Get(t.Context(), s.ID)
		if err == nil {
			err = sb.Remove(t.Context())
		}
		if err != nil && !errors.Is(err, smolvm.ErrNotFound) {
			t.Error(err)
		}
	}
	eventually(t, func() bool { return len(testenv.Processes(c.Home)) == 0 })
	eventually(t, func() bool {
		must[smolvm.Collected](t)(c.GC(t.Context(), false))
		left := testenv.Files(c.Home)
		// The client's output has left a mark.
		for i, f := range left {
			if f == "printed" {
				left = append(left[:i], left[i+1:]...)
				break
			}
		}
		if len(left) > 0 {
			t.Logf("files are left: %v", left)
		}
		return len(left) == 0
	})
}
