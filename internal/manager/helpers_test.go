package manager_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/fakehost"
)

// patience bounds a wait: far above what any takes on a busy machine.
const patience = 30 * time.Second

// envClient makes the test binary an SDK program that creates an ephemeral
// sandbox, prints its id and waits for its input to end.
const envClient = "LIFE_TEST_CLIENT"

// envLasting makes the sandbox one that outlives its client.
const envLasting = "LIFE_TEST_LASTING"

func clientMain() int {
	c := smolvm.Client{Home: os.Getenv(envClient), Binary: os.Args[0]}
	sb, err := c.Create(context.Background(), smolvm.Spec{Ephemeral: os.Getenv(envLasting) == ""})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(sb.ID())
	os.Stdin.Read(make([]byte, 1))
	return 0
}

// life is what one law is tested with.
type life struct {
	*testing.T
	smolvm.Client
	ctx context.Context
}

func newLife(t *testing.T) *life {
	t.Helper()
	home := fakehost.Home(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	l := &life{t, smolvm.Client{Home: home, Binary: self}, ctx}
	t.Cleanup(func() {
		defer cancel()
		l.empty()
	})
	return l
}

// empty removes every sandbox and then finds no process and no file.
func (l *life) empty() {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	os.Remove(filepath.Join(l.Home, faultsFile))
	if _, err := l.DrainPools(ctx, ""); err != nil {
		l.Error(err)
	}
	list, err := l.List(ctx, smolvm.ListOptions{})
	if err != nil {
		l.Error(err)
	}
	for _, info := range list {
		sb, err := l.Get(ctx, info.ID)
		if err == nil {
			err = sb.Remove(ctx)
		}
		if err != nil && !errors.Is(err, smolvm.ErrNotFound) {
			l.Errorf("remove %s: %v", info.ID, err)
		}
	}
	snapshots, err := l.Snapshots(ctx)
	if err != nil {
		l.Error(err)
	}
	for _, s := range snapshots {
		if err := l.RemoveSnapshot(ctx, s.Name); err != nil {
			l.Errorf("remove %s: %v", s.Name, err)
		}
	}
	l.eventually("its processes end", func() bool { return len(testenv.Processes(l.Home)) == 0 })
	if _, err := l.GC(ctx, false); err != nil {
		l.Error(err)
	}
	os.Remove(filepath.Join(l.Home, "reached"))
	if files := testenv.Files(l.Home); len(files) > 0 {
		l.Errorf("files are left: %v", files)
	}
	for _, p := range testenv.Processes(l.Home) {
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

func (l *life) eventually(what string, ok func() bool) {
	l.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			l.Fatalf("%s: it did not happen", what)
		}
	}
}

func (l *life) faults(lines ...string) {
	l.Helper()
	if err := os.WriteFile(filepath.Join(l.Home, faultsFile), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		l.Fatal(err)
	}
}

func (l *life) reached() {
	l.Helper()
	l.eventually("the step is reached", func() bool {
		_, err := os.Stat(filepath.Join(l.Home, "reached"))
		return err == nil
	})
}

func (l *life) create(s smolvm.Spec) *smolvm.Sandbox {
	l.Helper()
	sb, err := l.Create(l.ctx, s)
	if err != nil {
		l.Fatal(err)
	}
	return sb
}

func (l *life) ok(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// fails checks class and words of an error.
func (l *life) fails(err, class error, words ...string) {
	l.Helper()
	if !errors.Is(err, class) {
		l.Errorf("%v is not of class %v", err, api.ClassOf(class))
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			l.Errorf("%q does not say %q", err, w)
		}
	}
}

func (l *life) is(sb *smolvm.Sandbox, state smolvm.State, reason string) smolvm.Info {
	l.Helper()
	info, err := sb.Info(l.ctx)
	if err != nil || info.State != state || !strings.Contains(info.Reason, reason) {
		l.Errorf("it is %s (%s), %v; want %s (%s)", info.State, info.Reason, err, state, reason)
	}
	return info
}

func (l *life) gone(sb *smolvm.Sandbox) {
	l.Helper()
	l.eventually("it goes", func() bool {
		_, err := sb.Info(l.ctx)
		return errors.Is(err, smolvm.ErrNotFound)
	})
}

// remembering are the commands of the fake guest; see host.remember.
var remembering = []string{"count", "note", "noted", "put", "got", "who"}

func (l *life) says(sb *smolvm.Sandbox, line, want string) {
	l.Helper()
	cmd := smolvm.ShellCommand(line)
	if word, _, _ := strings.Cut(line, " "); slices.Contains(remembering, word) {
		cmd = smolvm.Command{Argv: strings.Fields(line)}
	}
	r, err := sb.Run(l.ctx, cmd)
	if err != nil {
		l.Fatalf("%s: %v", line, err)
	}
	if got := strings.TrimSpace(string(r.Stdout)); got != want {
		l.Errorf("%s: %q, want %q (%s)", line, got, want, r.Stderr)
	}
}

// tell has the machine do something from inside.
func (l *life) tell(sb *smolvm.Sandbox, command string) {
	sb.Run(l.ctx, smolvm.Command{Argv: []string{command}}) // its stream breaks
}

// kill kills the supervisor and waits for its end.
func (l *life) kill(sb *smolvm.Sandbox) {
	l.Helper()
	info, err := sb.Info(l.ctx)
	l.ok(err)
	l.ok(syscall.Kill(info.SupervisorPID, syscall.SIGKILL))
	// The kernel gives its files back some time after the process has vanished.
	l.eventually("the supervisor dies", func() bool { return !store.Locked(l.path(sb, "lock")) })
}

func (l *life) path(sb *smolvm.Sandbox, name string) string {
	return filepath.Join(l.Home, "sandboxes", sb.ID(), name)
}

// async runs f and returns where its error will come.
func async(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// startClient starts an SDK program with an ephemeral sandbox.
func startClient(l *life) (*exec.Cmd, io.Closer, string) {
	l.Helper()
	cmd := exec.Command(l.Binary)
	cmd.Env = append(os.Environ(), envClient+"="+l.Home)
	in, err := cmd.StdinPipe()
	l.ok(err)
	out, err := cmd.StdoutPipe()
	l.ok(err)
	l.ok(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	l.ok(err)
	return cmd, in, strings.TrimSpace(line)
}

// startCreate starts an SDK program that creates a sandbox which outlives it.
func (l *life) startCreate() (*exec.Cmd, io.Closer) {
	l.Helper()
	cmd := exec.Command(l.Binary)
	cmd.Env = append(os.Environ(), envClient+"="+l.Home, envLasting+"=1")
	in, err := cmd.StdinPipe()
	l.ok(err)
	l.ok(cmd.Start())
	return cmd, in
}

func processIDs(l *life) []string {
	var list []string
	for _, p := range testenv.Processes(l.Home) {
		list = append(list, strconv.Itoa(p.PID))
	}
	return list
}

// killNew kills the processes that were not there before.
func killNew(l *life, before map[string]bool) {
	l.Helper()
	for _, p := range testenv.Processes(l.Home) {
		if !before[strconv.Itoa(p.PID)] {
			syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
}

// oneWins does the same n times at once: one succeeds, the others are in conflict.
func (l *life) oneWins(n int, do func() error) {
	l.Helper()
	var won, lost int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			err := do()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if errors.Is(err, smolvm.ErrConflict) {
				lost++
			} else {
				l.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 || lost != n-1 {
		l.Errorf("%d won, %d lost", won, lost)
	}
}
