package smolvm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
)

// TestVMLimits lets guests misbehave while another sandbox and the host watch.
func TestVMLimits(t *testing.T) {
	c := client(t)
	good := sandbox(t, c, smolvm.Spec{Name: "good", MemoryMiB: 256})
	bad := sandbox(t, c, smolvm.Spec{Name: "bad", MemoryMiB: 256, DiskMiB: 256})
	for _, tt := range []struct {
		name string
		f    func(t *testing.T, sb *smolvm.Sandbox)
	}{
		{"memory hog", memoryHog},
		{"full disk", fullDisk},
		{"log flood", logFlood},
		{"console flood", func(t *testing.T, sb *smolvm.Sandbox) { consoleFlood(t, c, sb) }},
		{"fork bomb", forkBomb},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.f(t, bad)
			st := must[smolvm.Stats](t)(bad.Stats(t.Context()))
			// Guest memory, QEMU's translation buffer, the supervisor.
			if st.HostRSSKiB > (256+320)<<10 {
				t.Errorf("the host pays %d MiB for a guest of 256", st.HostRSSKiB>>10)
			}
			if got := sh(t, good, "echo well"); got != "well" {
				t.Errorf("the other sandbox says %q", got)
			}
			if got := sh(t, bad, "echo well"); got != "well" {
				t.Errorf("afterwards the sandbox says %q", got)
			}
		})
	}
	// All its blocks were written at least once by now; its files are bounded: what
	// the template's file system has of them, and a layer of all.
	st := must[smolvm.Stats](t)(bad.Stats(t.Context()))
	if kib := st.HostDiskKiB; kib < 200<<10 || kib > 2*256<<10 {
		t.Errorf("a disk of 256 MiB takes %d MiB", kib>>10)
	}
}

func memoryHog(t *testing.T, sb *smolvm.Sandbox) {
	c := smolvm.Command{Argv: []string{"python3", "-c", "b = bytearray(2 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1"}}
	res := must[*smolvm.Result](t)(sb.Run(t.Context(), c))
	if res.OK() {
		t.Error("2 GiB fitted into 256 MiB")
	}
}

func fullDisk(t *testing.T, sb *smolvm.Sandbox) {
	res := must[*smolvm.Result](t)(sb.Run(t.Context(), smolvm.ShellCommand("yes | head -c 1000M > /root/full"))) // zeros would take nothing
	if full := string(res.Stderr); !strings.Contains(full, "No space left") {
		t.Errorf("1000 MiB fitted into 256: %s", full)
	}
	sh(t, sb, "rm /root/full")
}

func logFlood(t *testing.T, sb *smolvm.Sandbox) {
	p, err := sb.Background(t.Context(), smolvm.Command{Argv: []string{"yes"}})
	if err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	sb.Attach(ctx, p.ID, smolvm.AttachOptions{Stdout: &out}) // reads for a while
	if err := sb.SignalProcess(t.Context(), p.ID, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if _, err := sb.Attach(t.Context(), p.ID, smolvm.AttachOptions{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if n := len(out.String()); n == 0 || n > 1<<20 {
		t.Errorf("%d bytes of its log are kept", n)
	}
	if err := sb.ForgetProcess(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
}

func consoleFlood(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox) {
	sh(t, sb, "yes | head -c 4000000 > /dev/console")
	var total int64
	logs, _ := filepath.Glob(filepath.Join(c.Home, "sandboxes", sb.ID(), "vm", "*"))
	for _, l := range logs {
		if st, err := os.Stat(l); err == nil && st.Mode().IsRegular() {
			total += st.Size()
		}
	}
	if total > 4<<20 {
		t.Errorf("logs of %d bytes are kept", total)
	}
}

func forkBomb(t *testing.T, sb *smolvm.Sandbox) {
	c := smolvm.ShellCommand("bomb() { bomb | bomb & }; bomb; sleep 1000")
	c.Timeout = 5 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := sb.Run(ctx, c)
	if err != nil {
		t.Fatalf("the call did not come back: %v", err)
	}
	if !res.TimedOut && res.OK() {
		t.Errorf("%+v", res.Ended)
	}
}

// TestVMConcurrentCreates lets ten clients make a sandbox of one name.
func TestVMConcurrentCreates(t *testing.T) {
	c := client(t)
	var wg sync.WaitGroup
	made := make([]*smolvm.Sandbox, 10)
	errs := make([]error, len(made))
	for i := range made {
		wg.Go(func() { made[i], errs[i] = c.Create(t.Context(), smolvm.Spec{Name: "same", MemoryMiB: 192}) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			if err := made[i].Remove(t.Context()); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, smolvm.ErrConflict) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d won", won, len(made))
	}
}
