package smolvm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// counting starts a process that counts in /dev/shm/count.
func counting(t *testing.T, sb *smolvm.Sandbox) {
	t.Helper()
	must[api.Process](t)(sb.Background(t.Context(), smolvm.ShellCommand(
		`i=0; while :; do i=$((i+1)); echo $i > /dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.05; done`)))
	eventually(t, func() bool { return count(t, sb) > 0 })
}

func count(t *testing.T, sb *smolvm.Sandbox) int {
	t.Helper()
	n, _ := strconv.Atoi(sh(t, sb, "cat /dev/shm/count 2>/dev/null || true"))
	return n
}

// countsOn fails where the process does not go on from at least n.
func countsOn(t *testing.T, sb *smolvm.Sandbox, n int) {
	t.Helper()
	first := count(t, sb)
	if first < n {
		t.Errorf("it counts from %d, after %d", first, n)
	}
	eventually(t, func() bool { return count(t, sb) > first })
}

func removeAfter(t *testing.T, sb *smolvm.Sandbox) {
	t.Cleanup(func() {
		if err := sb.Remove(context.Background()); err != nil { // the test's context has ended
			t.Error(err)
		}
	})
}

// identity is what no two guests may share.
func identity(t *testing.T, sb *smolvm.Sandbox) []string {
	t.Helper()
	return strings.Fields(sh(t, sb, "cat /etc/machine-id /etc/hostname /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '"))
}

func distinct(t *testing.T, all ...[]string) {
	t.Helper()
	seen := map[string]bool{}
	for _, id := range all {
		for _, v := range id {
			if seen[v] {
				t.Errorf("%s is there twice", v)
			}
			seen[v] = true
		}
	}
}

func rightClock(t *testing.T, sb *smolvm.Sandbox) {
	t.Helper()
	before := time.Now()
	guest, _ := strconv.ParseFloat(sh(t, sb, "date +%s.%N"), 64)
	at := time.UnixMilli(int64(guest * 1000))
	if at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("the guest's clock is %v off", time.Since(at))
	}
}

func TestVMHibernate(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 256})
	counting(t, sb)
	id := identity(t, sb)
	for range 2 {
		n := count(t, sb)
		if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
			t.Fatal(err)
		}
		if info := must[smolvm.Info](t)(sb.Info(t.Context())); info.State != api.StateHibernated || info.VMMPID != 0 {
			t.Fatalf("%s, VMM %d", info.State, info.VMMPID)
		}
		countsOn(t, sb, n) // the command wakes it
		rightClock(t, sb)
	}
	if again := identity(t, sb); again[0] != id[0] || again[1] != id[1] {
		t.Errorf("it was %v and woke as %v", id, again)
	}
	if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
		t.Fatal(err)
	}
	sh(t, sb, "true")
}

func TestVMPausedClock(t *testing.T) {
	sb := sandbox(t, client(t), smolvm.Spec{MemoryMiB: 256})
	if err := sb.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(3 * time.Second) // more than rightClock lets pass
	if err := sb.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	rightClock(t, sb)
}

func TestVMFork(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 512})
	counting(t, sb)
	sh(t, sb, "echo parent > /root/who; head -c 20000000 /dev/urandom > /dev/shm/data")
	sum := sh(t, sb, "md5sum < /dev/shm/data")
	n := count(t, sb)
	children := must[[]*smolvm.Sandbox](t)(sb.Fork(t.Context(), smolvm.ForkOptions{N: 3}))
	ids := [][]string{identity(t, sb)}
	for i, child := range children {
		removeAfter(t, child)
		countsOn(t, child, n)
		rightClock(t, child)
		if got := sh(t, child, "md5sum < /dev/shm/data"); got != sum {
			t.Errorf("child %d has other memory", i)
		}
		sh(t, child, fmt.Sprintf("echo child%d > /root/who; sync", i))
		ids = append(ids, identity(t, child))
	}
	distinct(t, ids...)
	countsOn(t, sb, n)
	if who := sh(t, sb, "cat /root/who"); who != "parent" {
		t.Errorf("the parent's disk says %q", who)
	}
	grandchild := must[[]*smolvm.Sandbox](t)(children[1].Fork(t.Context(), smolvm.ForkOptions{}))[0]
	removeAfter(t, grandchild)
	if who := sh(t, grandchild, "cat /root/who; md5sum < /dev/shm/data"); who != "child1\n"+sum {
		t.Errorf("the grandchild says %q", who)
	}
	countsOn(t, grandchild, n)
}

func TestVMSnapshot(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 256})
	counting(t, sb)
	n := count(t, sb)
	sh(t, sb, "echo saved > /root/f")
	full := must[smolvm.Snapshot](t)(sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "full"}))
	if full.Kind != api.SnapshotFull || full.PauseMS <= 0 {
		t.Errorf("%+v", full)
	}
	disk := must[smolvm.Snapshot](t)(sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "disk", DiskOnly: true}))
	if disk.Kind != api.SnapshotDisk {
		t.Errorf("%+v", disk)
	}
	if _, err := sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "full"}); !errors.Is(err, smolvm.ErrConflict) {
		t.Errorf("the same name again: %v", err)
	}
	sh(t, sb, "echo later > /root/f")
	if err := sb.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ids [][]string
	for range 2 {
		child := sandbox(t, c, smolvm.Spec{FromSnapshot: "full"})
		countsOn(t, child, n)
		rightClock(t, child)
		ids = append(ids, identity(t, child))
		if got := sh(t, child, "cat /root/f"); got != "saved" {
			t.Errorf("it holds %q", got)
		}
	}
	distinct(t, ids...)
	child := sandbox(t, c, smolvm.Spec{FromSnapshot: "disk"})
	if got := sh(t, child, "cat /root/f; ls /dev/shm"); got != "saved" {
		t.Errorf("booted from the disk it holds %q", got)
	}
	carried(t, c, full)
}

// carried saves a snapshot to a file and loads it again.
func carried(t *testing.T, c *smolvm.Client, snap smolvm.Snapshot) {
	var file bytes.Buffer
	if err := c.SaveSnapshot(t.Context(), snap.Name, &file); err != nil {
		t.Fatal(err)
	}
	t.Logf("a snapshot of %d KiB is a file of %d KiB", snap.Bytes>>10, file.Len()>>10)
	if _, err := c.LoadSnapshot(t.Context(), bytes.NewReader(file.Bytes()), smolvm.LoadSnapshot{Name: "again"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.LoadSnapshot(t.Context(), bytes.NewReader(file.Bytes()), smolvm.LoadSnapshot{}); !errors.Is(err, smolvm.ErrConflict) {
		t.Errorf("under the name that it had: %v", err)
	}
	bad := bytes.Clone(file.Bytes())
	bad[len(bad)/2] ^= 1
	if _, err := c.LoadSnapshot(t.Context(), bytes.NewReader(bad), smolvm.LoadSnapshot{Name: "bad"}); err == nil {
		t.Error("a file with a bit flipped was taken in")
	}
	if _, err := c.LoadSnapshot(t.Context(), io.LimitReader(bytes.NewReader(file.Bytes()), int64(file.Len()/2)), smolvm.LoadSnapshot{Name: "bad"}); err == nil {
		t.Error("half a file was taken in")
	}
	list := must[[]smolvm.Snapshot](t)(c.Snapshots(t.Context()))
	if len(list) != 3 {
		t.Errorf("%d snapshots: %v", len(list), list)
	}
	for _, s := range list {
		if err := c.RemoveSnapshot(t.Context(), s.Name); err != nil {
			t.Error(err)
		}
	}
}

func TestVMHistory(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 256, Checkpoint: api.CheckpointEachCommand})
	counting(t, sb)
	for i := range 4 {
		sh(t, sb, fmt.Sprintf("echo %d >> /root/log; exit 0", i))
	}
	h := must[smolvm.History](t)(sb.History(t.Context()))
	for _, s := range h.Steps {
		t.Logf("step %d %q: %d KiB, pause %.1f ms", s.Step, s.Label, s.Bytes>>10, s.PauseMS)
	}
	var at int
	for _, s := range h.Steps {
		if strings.Contains(s.Label, "echo 1 >>") {
			at = s.Step
		}
	}
	child := must[[]*smolvm.Sandbox](t)(sb.Fork(t.Context(), smolvm.ForkOptions{At: &at}))[0]
	removeAfter(t, child)
	if got := sh(t, child, "cat /root/log"); got != "0\n1" {
		t.Errorf("a fork at step %d holds %q", at, got)
	}
	if err := sb.Rewind(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, sb, "cat /root/log"); got != "0\n1" {
		t.Errorf("after the rewind it holds %q", got)
	}
	countsOn(t, sb, 1)
	rightClock(t, sb)
	sh(t, sb, "echo other >> /root/log")
	h = must[smolvm.History](t)(sb.History(t.Context()))
	for _, s := range h.Steps {
		t.Logf("step %d %q: %d KiB, pause %.1f ms", s.Step, s.Label, s.Bytes>>10, s.PauseMS)
	}
	if err := sb.Stop(t.Context(), smolvm.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := sb.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, sb, "cat /root/log"); got != "0\n1\nother" {
		t.Errorf("after stop and start it holds %q", got)
	}
}

func TestVMPool(t *testing.T) {
	c := client(t)
	must[smolvm.Pool](t)(c.SetPool(t.Context(), smolvm.Pool{MemoryMiB: 256, Size: 2}))
	t.Cleanup(func() {
		must[[]smolvm.Pool](t)(c.DrainPools(context.Background(), "")) // the test's context has ended
	})
	full := func() bool {
		p := must[[]smolvm.Pool](t)(c.Pools(t.Context()))
		return len(p) == 1 && p[0].Ready == 2
	}
	eventually(t, full)
	if list := must[[]smolvm.Info](t)(c.List(t.Context(), smolvm.ListOptions{})); len(list) != 0 {
		t.Errorf("waiting members are listed: %v", list)
	}
	var ids [][]string
	for range 2 {
		start := time.Now()
		sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 256})
		created := time.Since(start)
		sh(t, sb, "true")
		t.Logf("created after %v, first command after %v", created, time.Since(start))
		if info := must[smolvm.Info](t)(sb.Info(t.Context())); info.Origin != "pool" {
			t.Errorf("made of %s", info.Origin)
		}
		rightClock(t, sb)
		ids = append(ids, identity(t, sb))
	}
	distinct(t, ids...)
	eventually(t, full)
}
