package smolvm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/testenv"
)

// A moment is something that can be seen from outside while a client works.
type moment struct {
	name string
	args []string // of the client
	seen func(home string) bool
}

func glob(pattern string) func(string) bool {
	return func(home string) bool {
		m, _ := filepath.Glob(filepath.Join(home, pattern))
		return len(m) > 0
	}
}

func running(home string) bool { return inState(home, `"state": "running"`) }

func inState(home, text string) bool {
	m, _ := filepath.Glob(filepath.Join(home, "sandboxes/*/state.json"))
	for _, path := range m {
		if b, _ := os.ReadFile(path); strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}

func victim(home, what string) bool { return len(victims(home, what)) > 0 }

// victims are the processes of one kind: "client", "supervisor" or "vmm".
func victims(home, what string) []testenv.Process {
	return slices.DeleteFunc(testenv.Processes(home), func(p testenv.Process) bool {
		kind := "client"
		switch {
		case strings.Contains(p.Args[0], "qemu"):
			kind = "vmm"
		case len(p.Args) > 1 && p.Args[1] == "supervise":
			kind = "supervisor"
		}
		return kind != what
	})
}

// moments of create, run and remove, in their order.
var moments = []moment{
	{"create: client started", create, func(h string) bool { return victim(h, "client") }},
	{"create: supervisor started", create, func(h string) bool { return victim(h, "supervisor") }},
	{"create: disk made", create, func(h string) bool {
		return glob("tmp/create-*/sandbox/parts/*")(h) || glob("sandboxes/*/parts/*")(h)
	}},
	{"create: published", create, glob("sandboxes/*/spec.json")},
	{"create: listening", create, glob("sandboxes/*/api.sock")},
	{"create: VMM started", create, func(h string) bool { return victim(h, "vmm") }},
	{"create: guest prints", create, glob("sandboxes/*/vm/console.log")},
	{"run: running", run, running},
	{"run: command prints", run, glob("printed")},
	{"remove: asked", remove, glob("removing")},
	{"remove: out of sight", remove, glob("tmp/rm-*")},
}

var (
	create = []string{"create", "--name", "victim", "--memory", "256"}
	run    = []string{"run", "--name", "victim", "--memory", "256", "--", "sh", "-c", "echo up; sleep 1000"}
	remove = []string{"rm", "victim"}
)

// TestVMCrash kills the client, the supervisor or the VMM at each moment.
// Afterwards, and after gc, the host is as before.
func TestVMCrash(t *testing.T) {
	c := client(t)
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for _, m := range moments {
		for _, who := range []string{"client", "supervisor", "vmm"} {
			t.Run(m.name+", kill "+who, func(t *testing.T) {
				crash(t, c, m, who)
				if after, _ := os.ReadFile("/proc/self/mounts"); string(after) != string(mounts) {
					t.Errorf("mounts changed:\n%s", after)
				}
			})
		}
	}
}

func crash(t *testing.T, c *smolvm.Client, m moment, who string) {
	home, ctx := c.Home, t.Context()
	if m.args[0] == "rm" {
		if _, err := c.Create(ctx, smolvm.Spec{Name: "victim", MemoryMiB: 256}); err != nil {
			t.Fatal(err)
		}
	}
	cmd, out := startClient(t, c, m.args)
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	awaitMoment(t, m, home, ended)
	for _, p := range victims(home, who) {
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("the client hangs: %s", out)
	}
	// What lives on by right: a sandbox whose client was told of it, or that lost
	// only its client after that.
	survivors := must[[]smolvm.Info](t)(c.List(ctx, smolvm.ListOptions{}))
	for _, s := range survivors {
		sb, err := c.Get(ctx, s.ID)
		if errors.Is(err, smolvm.ErrNotFound) {
			continue // its supervisor was just removing it
		}
		if err == nil {
			err = sb.Remove(ctx)
		}
		if err != nil {
			t.Error(err)
		}
	}
	// A supervisor that has lost its client takes its work back by itself.
	eventually(t, func() bool { return len(testenv.Processes(home)) == 0 })
	os.Remove(filepath.Join(home, "printed"))
	os.Remove(filepath.Join(home, "removing"))
	// A killed process is out of sight before the kernel has closed its files, and
	// with them its locks.
	eventually(t, func() bool {
		must[smolvm.Collected](t)(c.GC(ctx, false))
		left := testenv.Files(home)
		if len(left) > 0 {
			t.Logf("files are left: %v", left)
		}
		return len(left) == 0
	})
}

// startClient starts the program as a user would.
func startClient(t *testing.T, c *smolvm.Client, args []string) (*exec.Cmd, *lockedBuffer) {
	cmd := exec.Command(c.Binary, args...)
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+c.Home)
	out := new(lockedBuffer)
	cmd.Stderr = out
	cmd.Stdout = markOutput{filepath.Join(c.Home, "printed"), out}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if args[0] == "rm" {
		os.WriteFile(filepath.Join(c.Home, "removing"), nil, 0o600)
	}
	return cmd, out
}

// markOutput makes a file when the client prints, which a moment can see.
type markOutput struct {
	path string
	out  *lockedBuffer
}

func (m markOutput) Write(p []byte) (int, error) {
	os.WriteFile(m.path, nil, 0o600)
	return m.out.Write(p)
}

// awaitMoment polls fast: the moments are short, and there is no one event for
// all of them.
func awaitMoment(t *testing.T, m moment, home string, ended <-chan struct{}) {
	deadline := time.Now().Add(patience)
	for !m.seen(home) {
		select {
		case <-ended:
			return // it went by unseen: the end is a moment too
		case <-time.After(200 * time.Microsecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the moment did not come")
		}
	}
}

// TestVMErrorStateIsNotTheEnd kills supervisor and VMM of a sandbox that holds
// work: the disk is intact, start works, rm removes everything.
func TestVMErrorStateIsNotTheEnd(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{MemoryMiB: 256})
	for i, who := range []string{"supervisor", "vmm"} {
		sh(t, sb, fmt.Sprintf("echo work%d >> /root/work; sync", i))
		for _, p := range victims(c.Home, who) {
			syscall.Kill(p.PID, syscall.SIGKILL)
		}
		eventually(t, func() bool { return len(testenv.Processes(c.Home)) == 0 })
		info := must[smolvm.Info](t)(sb.Info(t.Context()))
		if info.State != "error" || info.Reason == "" {
			t.Fatalf("after the death of its %s: %s, %q", who, info.State, info.Reason)
		}
		if _, err := sb.Run(t.Context(), smolvm.ShellCommand("true")); !errors.Is(err, smolvm.ErrUnavailable) {
			t.Errorf("run: %v", err)
		}
		if err := sb.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := sh(t, sb, "cat /root/work"); got != "work0\nwork1" {
		t.Errorf("%q", got)
	}
}

// TestVMLifetimes makes sandboxes that end by themselves.
func TestVMLifetimes(t *testing.T) {
	c := client(t)
	ttl := sandbox(t, c, smolvm.Spec{MemoryMiB: 256, TTLSeconds: 20})
	idle := sandbox(t, c, smolvm.Spec{MemoryMiB: 256, IdleTimeoutSeconds: 2})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if info, err := idle.Wait(ctx); err != nil || info.State != "stopped" || info.Reason != "idle timeout" {
		t.Errorf("idle: %+v, %v", info, err)
	}
	if _, err := ttl.Wait(ctx); err != nil && !errors.Is(err, smolvm.ErrNotFound) {
		t.Errorf("time to live: %v", err)
	}
	eventually(t, func() bool {
		_, err := ttl.Info(ctx)
		return errors.Is(err, smolvm.ErrNotFound)
	})
}
