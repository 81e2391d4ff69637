package smolvm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
)

// keygen stands for the image's ssh-keygen, which the default image has not: it
// makes a file that is as random as a key.
const keygen = `#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -f ] && f=$2; shift; done
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$f"
cp "$f" "$f.pub"
`

// withHostKey gives a guest a host key, as an image with an SSH server has one.
func withHostKey(t *testing.T, sb *smolvm.Sandbox) {
	t.Helper()
	sh(t, sb, "mkdir -p /etc/ssh; cat > /usr/bin/ssh-keygen <<'END'\n"+keygen+"END\n"+
		"chmod +x /usr/bin/ssh-keygen; /usr/bin/ssh-keygen -t ed25519 -f /etc/ssh/ssh_host_ed25519_key")
}

const hostKey = "cat /etc/ssh/ssh_host_ed25519_key"

// TestVMClones makes 200 sandboxes: of a template, and each fourth of a snapshot
// with a host key and a running process. No two have anything in common that they
// must not, and the clocks of all are right.
func TestVMClones(t *testing.T) {
	c := client(t)
	source := sandbox(t, c, smolvm.Spec{MemoryMiB: 256})
	withHostKey(t, source)
	counting(t, source)
	key, n := sh(t, source, hostKey), count(t, source)
	must[smolvm.Snapshot](t)(source.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "keyed"}))
	const clones = 200
	ids := make([][]string, clones)
	work := make(chan int)
	var done sync.WaitGroup
	for range 2 { // more at once only wait for each other
		done.Go(func() {
			for i := range work {
				spec := smolvm.Spec{MemoryMiB: 256}
				if i%4 == 3 {
					spec = smolvm.Spec{FromSnapshot: "keyed"}
				}
				id, err := cloneOf(t.Context(), c, spec, n)
				if err != nil {
					t.Errorf("clone %d: %v", i, err)
				}
				ids[i] = id
			}
		})
	}
	start := time.Now()
	for i := range clones {
		if t.Failed() {
			break
		}
		work <- i
	}
	close(work)
	done.Wait()
	t.Logf("%d clones in %v", clones, time.Since(start))
	distinct(t, append(ids, []string{key})...)
	if err := c.RemoveSnapshot(t.Context(), "keyed"); err != nil {
		t.Error(err)
	}
}

// cloneOf makes a clone, returns what must be its alone, and removes it.
func cloneOf(ctx context.Context, c *smolvm.Client, spec smolvm.Spec, counted int) (id []string, err error) {
	sb, err := c.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if rmErr := sb.Remove(ctx); err == nil {
			err = rmErr
		}
	}()
	line := "echo $(date +%s.%N) $(cat /dev/shm/count 2>/dev/null || echo -1); " +
		"cat /etc/machine-id /etc/hostname /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '; " +
		hostKey + " 2>/dev/null || true"
	before := time.Now()
	r, err := sb.Run(ctx, smolvm.ShellCommand(line))
	if err != nil {
		return nil, err
	}
	words := strings.Fields(string(r.Stdout))
	want := 6
	if spec.FromSnapshot != "" {
		want = 7 // with a host key
	}
	if len(words) != want {
		return nil, fmt.Errorf("it says %q (%s)", r.Stdout, r.Stderr)
	}
	clock, _ := strconv.ParseFloat(words[0], 64)
	at := time.UnixMilli(int64(clock * 1000))
	if at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		return nil, fmt.Errorf("its clock is %v off", time.Since(at))
	}
	if n, _ := strconv.Atoi(words[1]); spec.FromSnapshot != "" && n < counted {
		return nil, fmt.Errorf("its process counts from %d, after %d", n, counted)
	}
	return words[2:], nil
}

// TestVMHostKeys forks and snapshots a guest with a host key. Each copy has another,
// the source and what is itself later keep theirs.
func TestVMHostKeys(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 256})
	withHostKey(t, sb)
	key := sh(t, sb, hostKey)
	child := must[[]*smolvm.Sandbox](t)(sb.Fork(t.Context(), smolvm.ForkOptions{}))[0]
	removeAfter(t, child)
	for _, diskOnly := range []bool{false, true} {
		must[smolvm.Snapshot](t)(sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: fmt.Sprint("disk-", diskOnly), DiskOnly: diskOnly}))
	}
	full := sandbox(t, c, smolvm.Spec{FromSnapshot: "disk-false"})
	disk := sandbox(t, c, smolvm.Spec{FromSnapshot: "disk-true"})
	keys := [][]string{{key}}
	for _, copied := range []*smolvm.Sandbox{child, full, disk} {
		keys = append(keys, strings.Fields(sh(t, copied, hostKey)))
	}
	distinct(t, keys...)
	if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, sb, hostKey); got != key {
		t.Errorf("its own key is %s, was %s", got, key)
	}
	for _, s := range must[[]smolvm.Snapshot](t)(c.Snapshots(t.Context())) {
		if err := c.RemoveSnapshot(t.Context(), s.Name); err != nil {
			t.Error(err)
		}
	}
}

// flipBit changes one bit in the middle of a part of a kind, where there is data.
func flipBit(t *testing.T, dir, kind string) {
	t.Helper()
	parts, _ := filepath.Glob(filepath.Join(dir, "parts", kind+"-*"))
	if len(parts) == 0 {
		t.Fatalf("no %s in %s", kind, dir)
	}
	f, err := os.OpenFile(parts[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for at := fi.Size() / 2; ; at = (at + 4096) % fi.Size() {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if b[0] > 1 { // so that the next call finds the same place
			b[0] ^= 1
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

// TestVMDamaged flips a bit in each part of a real template and of a real snapshot:
// the one is made anew, the other refused.
func TestVMDamaged(t *testing.T) {
	c := client(t)
	testenv.OwnTemplates(t, c.Home)
	spec := smolvm.Spec{MemoryMiB: 256}
	first := must[smolvm.Template](t)(c.BuildTemplate(t.Context(), spec))
	dir := filepath.Join(c.Home, "templates", first.Key)
	for _, kind := range []string{"base", "devices"} {
		flipBit(t, dir, kind)
		again := must[smolvm.Template](t)(c.BuildTemplate(t.Context(), spec))
		if again.Key != first.Key || !again.Created.After(first.Created) {
			t.Errorf("%s: it was not made anew: %+v", kind, again)
		}
		first = again
	}
	sb := sandbox(t, c, spec)
	sh(t, sb, "echo saved > /root/f; echo saved > /dev/shm/f; sync")
	must[smolvm.Snapshot](t)(sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "s"}))
	snap := filepath.Join(c.Home, "snapshots/s")
	for _, kind := range []string{"base", "delta", "devices", "raw", "layer"} {
		flipBit(t, snap, kind)
		_, err := c.Create(t.Context(), smolvm.Spec{FromSnapshot: "s"})
		if e := api.AsError(err); err == nil || e.Class != api.Denied || e.Code != "altered" {
			t.Errorf("%s: %v", kind, err)
		}
		flipBit(t, snap, kind)
	}
	if got := sh(t, sandbox(t, c, smolvm.Spec{FromSnapshot: "s"}), "cat /root/f /dev/shm/f"); got != "saved\nsaved" {
		t.Errorf("repaired it holds %q", got)
	}
	if err := c.RemoveSnapshot(t.Context(), "s"); err != nil {
		t.Error(err)
	}
}

// TestVMNothingPilesUp creates, uses and removes real sandboxes, one after another,
// as TestVMCyclesLeakNothing of package manager does with many more fake ones.
func TestVMNothingPilesUp(t *testing.T) {
	c := client(t)
	mounts, _ := os.ReadFile("/proc/self/mounts")
	var fds int
	for i := range 25 {
		sb := must[*smolvm.Sandbox](t)(c.Create(t.Context(), smolvm.Spec{MemoryMiB: 256, Ephemeral: i%2 == 0}))
		sh(t, sb, "true")
		if err := sb.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			fds = openFiles()
		}
	}
	eventually(t, func() bool { return openFiles() <= fds && len(testenv.Processes(c.Home)) == 0 })
	if left := testenv.Files(c.Home); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
	if after, _ := os.ReadFile("/proc/self/mounts"); string(after) != string(mounts) {
		t.Errorf("mounts changed:\n%s", after)
	}
}

func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
