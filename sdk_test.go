package smolvm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
)

// client returns a client of a state directory of the test's own.
func client(t testing.TB) *smolvm.Client {
	t.Helper()
	return &smolvm.Client{Binary: testenv.Binary(t), Home: testenv.Home(t)}
}

// sandbox makes a sandbox that is removed at the end of the test.
func sandbox(t testing.TB, c *smolvm.Client, spec smolvm.Spec) *smolvm.Sandbox {
	t.Helper()
	sb, err := c.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sb
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// sh runs a line and returns its output without the last line break.
func sh(t testing.TB, sb *smolvm.Sandbox, line string) string {
	t.Helper()
	res := must[*smolvm.Result](t)(sb.Run(t.Context(), smolvm.ShellCommand(line)))
	if !res.OK() {
		t.Fatalf("%s: exit %d, stderr %q", line, res.ExitCode, res.Stderr)
	}
	return strings.TrimSuffix(string(res.Stdout), "\n")
}

// behindGateway returns a client of the same sandboxes by way of a gateway.
func behindGateway(t testing.TB, c *smolvm.Client) *smolvm.Client {
	t.Helper()
	return &smolvm.Client{BaseURL: testenv.Serve(t, c.Home)}
}

// TestVMSandbox boots one sandbox and uses all that the SDK has, on this machine and
// by way of a gateway.
func TestVMSandbox(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{
		Name: "web", CPUs: 2, MemoryMiB: 512, DiskMiB: 1024,
		Env: map[string]string{"COLOR": "blue", "EMPTY": ""}, Labels: map[string]string{"team": "a"},
	})
	t.Run("this machine", func(t *testing.T) { testSandbox(t, c, sb) })
	if t.Failed() {
		return
	}
	must[api.EnvChanged](t)(sb.ChangeEnv(t.Context(), api.EnvChange{
		Set: map[string]string{"COLOR": "blue", "EMPTY": ""}, Unset: []string{"NEW", "LATE"},
	}))
	far := behindGateway(t, c)
	t.Run("behind a gateway", func(t *testing.T) { testSandbox(t, far, must[*smolvm.Sandbox](t)(far.Get(t.Context(), "web"))) })
}

// testSandbox leaves the sandbox running under its name, with another environment.
func testSandbox(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox) {
	t.Run("info", func(t *testing.T) { testInfo(t, c, sb) })
	t.Run("limits are the guest's", func(t *testing.T) { testSizes(t, sb) })
	t.Run("commands", func(t *testing.T) { testCommands(t, sb) })
	t.Run("streams", func(t *testing.T) { testStreams(t, sb) })
	t.Run("terminal", func(t *testing.T) { testTerminal(t, sb) })
	t.Run("cancelled", func(t *testing.T) { testCancel(t, sb) })
	t.Run("environment", func(t *testing.T) { testEnv(t, sb) })
	t.Run("background", func(t *testing.T) { testBackground(t, sb) })
	t.Run("files", func(t *testing.T) { testFiles(t, sb) })
	t.Run("copies", func(t *testing.T) { testCopies(t, sb) })
	t.Run("watch", func(t *testing.T) { testWatch(t, sb) })
	t.Run("pause", func(t *testing.T) { testPause(t, sb) })
	t.Run("names", func(t *testing.T) { testNames(t, c, sb) })
	t.Run("stop and start", func(t *testing.T) { testStopStart(t, c, sb) })
}

func testInfo(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox) {
	info := must[smolvm.Info](t)(sb.Info(t.Context()))
	if info.State != api.StateRunning || info.Name != "web" || info.CPUs != 2 || info.MemoryMiB != 512 {
		t.Fatalf("%+v", info)
	}
	if info.Isolation == "" || info.VMMPID == 0 || info.Timings.TotalMS <= 0 || len(info.Timings.Boot) == 0 {
		t.Fatalf("what a running sandbox knows is missing: %+v", info)
	}
	for _, ref := range []string{info.ID, info.ID[:4], "web"} {
		if got := must[*smolvm.Sandbox](t)(c.Get(t.Context(), ref)); got.ID() != info.ID {
			t.Errorf("get %q: %s", ref, got.ID())
		}
	}
	for _, ref := range []string{"", "nobody", "../web", "zz", strings.Repeat("a", 70)} {
		if _, err := c.Get(t.Context(), ref); !errors.Is(err, smolvm.ErrNotFound) {
			t.Errorf("get %q: %v", ref, err)
		}
	}
	for _, tt := range []struct {
		o    smolvm.ListOptions
		want int
	}{
		{smolvm.ListOptions{}, 1},
		{smolvm.ListOptions{Labels: map[string]string{"team": "a"}, States: []smolvm.State{api.StateRunning}}, 1},
		{smolvm.ListOptions{Labels: map[string]string{"team": "b"}}, 0},
		{smolvm.ListOptions{States: []smolvm.State{api.StateStopped}}, 0},
	} {
		if list := must[[]smolvm.Info](t)(c.List(t.Context(), tt.o)); len(list) != tt.want {
			t.Errorf("list %+v: %d sandboxes, want %d", tt.o, len(list), tt.want)
		}
	}
}

func testSizes(t *testing.T, sb *smolvm.Sandbox) {
	if n := sh(t, sb, "nproc"); n != "2" {
		t.Errorf("nproc %s, want 2", n)
	}
	st := must[smolvm.Stats](t)(sb.Stats(t.Context()))
	if st.MemoryTotalKiB < 400<<10 || st.MemoryTotalKiB > 512<<10 {
		t.Errorf("guest memory %d KiB, want a little less than 512 MiB", st.MemoryTotalKiB)
	}
	if st.DiskTotalKiB < 850<<10 || st.DiskTotalKiB > 1024<<10 {
		t.Errorf("guest disk %d KiB, want a little less than 1024 MiB", st.DiskTotalKiB)
	}
	if st.HostRSSKiB == 0 || st.HostPSSKiB == 0 || st.Processes == 0 {
		t.Errorf("%+v", st)
	}
	if host := sh(t, sb, "hostname"); host != "web" {
		t.Errorf("hostname %q", host)
	}
	if drift := time.Since(time.Unix(mustInt(t, sh(t, sb, "date +%s")), 0)).Abs(); drift > 5*time.Second {
		t.Errorf("the guest's clock is off by %v", drift)
	}
}

func mustInt(t testing.TB, s string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return n
}

func testCommands(t *testing.T, sb *smolvm.Sandbox) {
	for _, tt := range []struct {
		name string
		c    smolvm.Command
		out  string
		errs string
		code int
	}{
		{"argv is not a shell's", smolvm.Command{Argv: []string{"echo", "$HOME", "a b"}}, "$HOME a b\n", "", 0},
		{"raw shell", smolvm.ShellCommand("echo $((6*7)); echo no >&2; exit 3"), "42\n", "no\n", 3},
		{"login shell", smolvm.Command{Argv: []string{"shopt -q login_shell && echo yes"}, Shell: smolvm.LoginShell}, "yes\n", "", 0},
		{"directory", smolvm.Command{Argv: []string{"pwd"}, Dir: "/usr/bin"}, "/usr/bin\n", "", 0},
		{"user", smolvm.Command{Argv: []string{"sh", "-c", "id -un; echo $HOME"}, User: "agent"}, "agent\n/home/agent\n", "", 0},
		{"user and group", smolvm.Command{Argv: []string{"id", "-gn"}, User: "agent:root"}, "root\n", "", 0},
		{"environment", smolvm.Command{Argv: []string{"sh", "-c", "echo $COLOR-$EMPTY-$X"}, Env: map[string]string{"X": "1"}}, "blue--1\n", "", 0},
		{"input", smolvm.Command{Argv: []string{"wc", "-c"}, Stdin: strings.NewReader("12345")}, "5\n", "", 0},
		{"no input", smolvm.Command{Argv: []string{"cat"}}, "", "", 0},
		{"killed by a signal", smolvm.ShellCommand("kill -KILL $$"), "", "", 137},
		{"python", smolvm.Command{Argv: []string{"python3", "-c", "print(sum(range(10)))"}}, "45\n", "", 0},
		{"node", smolvm.Command{Argv: []string{"node", "-p", "6*7"}}, "42\n", "", 0},
		{"no kernel thread's files left open", smolvm.ShellCommand("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 ", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := must[*smolvm.Result](t)(sb.Run(t.Context(), tt.c))
			if string(res.Stdout) != tt.out || string(res.Stderr) != tt.errs || res.ExitCode != tt.code {
				t.Errorf("got %q, %q, exit %d; want %q, %q, %d", res.Stdout, res.Stderr, res.ExitCode, tt.out, tt.errs, tt.code)
			}
		})
	}
	for name, tt := range map[string]struct {
		c    smolvm.Command
		want error
	}{
		"no such program": {smolvm.Command{Argv: []string{"nonesuch"}}, smolvm.ErrNotFound},
		"no such dir":     {smolvm.Command{Argv: []string{"true"}, Dir: "/nonesuch"}, smolvm.ErrInvalid},
		"no such user":    {smolvm.Command{Argv: []string{"true"}, User: "nobody-here"}, smolvm.ErrInvalid},
		"bad shell":       {smolvm.Command{Argv: []string{"true"}, Shell: "fish"}, smolvm.ErrInvalid},
		"two lines":       {smolvm.Command{Argv: []string{"true", "true"}, Shell: smolvm.RawShell}, smolvm.ErrInvalid},
		"negative time":   {smolvm.Command{Argv: []string{"true"}, Timeout: -1}, smolvm.ErrInvalid},
		"bad environment": {smolvm.Command{Argv: []string{"true"}, Env: map[string]string{"=": ""}}, smolvm.ErrInvalid},
	} {
		if _, err := sb.Run(t.Context(), tt.c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want class %s", name, err, api.ClassOf(tt.want))
		}
	}
}

func testStreams(t *testing.T, sb *smolvm.Sandbox) {
	t.Run("time-out keeps what was printed and ends the group", func(t *testing.T) {
		c := smolvm.ShellCommand("echo before; sleep 1000 & sleep 1001")
		c.Timeout = 2 * time.Second
		res := must[*smolvm.Result](t)(sb.Run(t.Context(), c))
		if !res.TimedOut || string(res.Stdout) != "before\n" {
			t.Errorf("%+v %q", res.Ended, res.Stdout)
		}
		if left := sh(t, sb, "pgrep -c sleep || true"); left != "0" {
			t.Errorf("%s sleeps are left", left)
		}
	})
	t.Run("output is capped and said to be", func(t *testing.T) {
		c := smolvm.ShellCommand("yes | head -c 1000000; echo end >&2")
		c.OutputLimit = 1000
		res := must[*smolvm.Result](t)(sb.Run(t.Context(), c))
		if len(res.Stdout) != 1000 || !res.Truncated || string(res.Stderr) != "end\n" || res.ExitCode != 0 {
			t.Errorf("%d bytes, %+v, %q", len(res.Stdout), res.Ended, res.Stderr)
		}
	})
	t.Run("a child that keeps stdout open does not hang the call", func(t *testing.T) {
		start := time.Now()
		res := must[*smolvm.Result](t)(sb.Run(t.Context(), smolvm.ShellCommand("echo hi; sleep 300 &")))
		if string(res.Stdout) != "hi\n" || time.Since(start) > 100*time.Second {
			t.Errorf("%q after %v", res.Stdout, time.Since(start))
		}
		sh(t, sb, "pkill sleep")
	})
	t.Run("stdout and stderr arrive in order", func(t *testing.T) {
		var both bytes.Buffer
		c := smolvm.ShellCommand("for i in 1 2 3 4 5; do echo o$i; sleep 0.05; echo e$i >&2; sleep 0.05; done")
		c.Stdout, c.Stderr = &both, &both
		must[*smolvm.Result](t)(sb.Run(t.Context(), c))
		if want := "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\n"; both.String() != want {
			t.Errorf("%q", both.String())
		}
	})
	t.Run("many bytes both ways", func(t *testing.T) {
		in := make([]byte, 8<<20)
		rand.Read(in)
		res := must[*smolvm.Result](t)(sb.Run(t.Context(), smolvm.Command{Argv: []string{"cat"}, Stdin: bytes.NewReader(in)}))
		if !bytes.Equal(res.Stdout, in) {
			t.Errorf("%d bytes came back of %d", len(res.Stdout), len(in))
		}
	})
	t.Run("many at once", func(t *testing.T) {
		errs := make(chan error, 20)
		for i := range cap(errs) {
			go func() {
				res, err := sb.Run(t.Context(), smolvm.Command{Argv: []string{"echo", fmt.Sprint(i)}})
				if err == nil && string(res.Stdout) != fmt.Sprintln(i) {
					err = fmt.Errorf("%d: %q", i, res.Stdout)
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func testTerminal(t *testing.T, sb *smolvm.Sandbox) {
	in, feed := io.Pipe()
	var out lockedBuffer
	p := must[*smolvm.Process](t)(sb.Exec(t.Context(), smolvm.Command{
		Argv: []string{"sh", "-c", "stty size; read x; stty size; echo got $x; tty"}, TTY: true, Rows: 40, Cols: 100,
		Stdin: in, Stdout: &out,
	}))
	defer p.Close()
	done := make(chan error, 1)
	var ended smolvm.Ended
	go func() {
		var err error
		ended, err = p.Wait()
		done <- err
	}()
	out.await(t, "40 100")
	if err := p.Resize(50, 120); err != nil {
		t.Fatal(err)
	}
	io.WriteString(feed, "word\n")
	if err := <-done; err != nil || ended.ExitCode != 0 {
		t.Fatalf("%v, %+v", err, ended)
	}
	for _, want := range []string{"50 120", "got word", "/dev/pts/"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out.String(), want)
		}
	}
}

func testCancel(t *testing.T, sb *smolvm.Sandbox) {
	ctx, cancel := context.WithCancel(t.Context())
	var out lockedBuffer
	p := must[*smolvm.Process](t)(sb.Exec(ctx, smolvm.Command{Argv: []string{"sh", "-c", "echo up; sleep 2000"}, Stdout: &out}))
	done := make(chan error, 1)
	go func() {
		_, err := p.Wait()
		done <- err
	}()
	out.await(t, "up")
	cancel()
	if err := <-done; err == nil {
		t.Error("Wait succeeded after its context ended")
	}
	eventually(t, func() bool { return sh(t, sb, "pgrep -c -f 'sleep 200[0]' || true") == "0" })
}

func testEnv(t *testing.T, sb *smolvm.Sandbox) {
	changed := must[api.EnvChanged](t)(sb.ChangeEnv(t.Context(), api.EnvChange{
		Set: map[string]string{"NEW": "a\nb", "COLOR": "red"}, Unset: []string{"EMPTY", "NEVER"},
	}))
	if !slices.Equal(changed.Set, []string{"COLOR", "NEW"}) || !slices.Equal(changed.Unset, []string{"EMPTY"}) || !slices.Equal(changed.Missing, []string{"NEVER"}) {
		t.Errorf("%+v", changed)
	}
	if got := sh(t, sb, `echo "$NEW,$COLOR,${EMPTY-unset}"`); got != "a\nb,red,unset" {
		t.Errorf("%q", got)
	}
	env := must[map[string]string](t)(sb.Env(t.Context()))
	if len(env) != 2 || env["NEW"] != "a\nb" {
		t.Errorf("%v", env)
	}
	if _, err := sb.ChangeEnv(t.Context(), api.EnvChange{Set: map[string]string{"A=B": ""}}); !errors.Is(err, smolvm.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
}

func testBackground(t *testing.T, sb *smolvm.Sandbox) {
	c := smolvm.ShellCommand("echo started; while read line; do echo got $line; done; echo over >&2; exit 4")
	c.Tag, c.KeepStdin = "reader", true
	p := must[api.Process](t)(sb.Background(t.Context(), c))
	list := must[[]api.Process](t)(sb.Processes(t.Context()))
	if len(list) != 1 || list[0].ID != p.ID || list[0].Tag != "reader" {
		t.Fatalf("%+v", list)
	}
	var out, errs lockedBuffer
	ended, err := sb.Attach(t.Context(), p.ID, smolvm.AttachOptions{Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out, Stderr: &errs})
	if err != nil || ended.ExitCode != 4 {
		t.Fatalf("%v, %+v, %q %q", err, ended, out.String(), errs.String())
	}
	if out.String() != "started\ngot one\ngot two\n" || errs.String() != "over\n" {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
	out.Reset()
	if _, err := sb.Attach(t.Context(), p.ID, smolvm.AttachOptions{Stdout: &out, NoFollow: true}); err != nil || !strings.HasPrefix(out.String(), "started\n") {
		t.Errorf("kept output: %q, %v", out.String(), err)
	}
	if err := sb.ForgetProcess(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	q := must[api.Process](t)(sb.Background(t.Context(), smolvm.Command{Argv: []string{"sleep", "3000"}}))
	out.Reset()
	if _, err := sb.Attach(t.Context(), q.ID, smolvm.AttachOptions{Stdout: &out, NoFollow: true}); err != nil {
		t.Errorf("log of a running process: %v", err)
	}
	if err := sb.SignalProcess(t.Context(), q.ID, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	ended, err = sb.Attach(t.Context(), q.ID, smolvm.AttachOptions{})
	if err != nil || ended.Signal != "SIGTERM" {
		t.Errorf("%+v, %v", ended, err)
	}
	if err := sb.SignalProcess(t.Context(), "p999", "SIGTERM"); !errors.Is(err, smolvm.ErrNotFound) {
		t.Errorf("a signal to nobody: %v", err)
	}
	procs := must[[]smolvm.GuestProcess](t)(sb.GuestProcesses(t.Context()))
	if len(procs) == 0 || procs[0].PID != 1 {
		t.Errorf("guest processes: %+v", procs)
	}
}

func testFiles(t *testing.T, sb *smolvm.Sandbox) {
	ctx := t.Context()
	if err := sb.WriteFile(ctx, "/srv/a/b.txt", strings.NewReader("one"), smolvm.FileOptions{Parents: true, Mode: 0o640, Owner: "agent"}); err != nil {
		t.Fatal(err)
	}
	info := must[smolvm.FileInfo](t)(sb.Stat(ctx, "/srv/a/b.txt"))
	if info.Type != "file" || info.Size != 3 || info.Mode != 0o640 || info.User != "agent" {
		t.Errorf("%+v", info)
	}
	if err := sb.WriteFile(ctx, "/srv/a/b.txt", strings.NewReader("two!"), smolvm.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	if info := must[smolvm.FileInfo](t)(sb.Stat(ctx, "/srv/a/b.txt")); info.Mode != 0o640 || info.User != "agent" || info.Size != 4 {
		t.Errorf("replaced: %+v", info)
	}
	if b := must[[]byte](t)(sb.ReadFile(ctx, "/srv/a/b.txt", 0)); string(b) != "two!" {
		t.Errorf("%q", b)
	}
	if _, err := sb.ReadFile(ctx, "/srv/a/b.txt", 3); !errors.Is(err, smolvm.ErrExhausted) {
		t.Errorf("a file over the limit: %v", err)
	}
	sb.Mkdir(ctx, "/srv/a/dir", smolvm.FileOptions{Mode: 0o700})
	sh(t, sb, "ln -s b.txt /srv/a/link")
	var names []string
	for _, f := range must[[]smolvm.FileInfo](t)(sb.ReadDir(ctx, "/srv/a")) {
		names = append(names, f.Name+":"+f.Type)
	}
	if want := []string{"b.txt:file", "dir:dir", "link:symlink"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
	if err := sb.RenameFile(ctx, "/srv/a/b.txt", "/srv/a/c.txt"); err != nil {
		t.Error(err)
	}
	if err := sb.RemoveFile(ctx, "/srv/a", smolvm.RemoveOptions{}); err == nil {
		t.Error("removed a full directory")
	}
	if err := sb.RemoveFile(ctx, "/srv/a", smolvm.RemoveOptions{Recursive: true}); err != nil {
		t.Error(err)
	}
	if _, err := sb.Stat(ctx, "/srv/a"); !errors.Is(err, smolvm.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := sb.RemoveFile(ctx, "/srv/a", smolvm.RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

func testCopies(t *testing.T, sb *smolvm.Sandbox) {
	ctx, dir := t.Context(), t.TempDir()
	src := filepath.Join(dir, "src")
	os.MkdirAll(filepath.Join(src, "sub"), 0o755)
	big := make([]byte, 3<<20)
	rand.Read(big)
	os.WriteFile(filepath.Join(src, "sub", "big"), big, 0o600)
	os.WriteFile(filepath.Join(src, "run.sh"), []byte("#!/bin/sh\necho ran\n"), 0o755)
	os.Symlink("sub/big", filepath.Join(src, "link"))
	n := must[smolvm.Copied](t)(sb.CopyIn(ctx, src, "/opt/", smolvm.CopyOptions{Owner: "agent"}))
	if n.Bytes < int64(len(big)) {
		t.Errorf("copied %+v", n)
	}
	if got := sh(t, sb, "/opt/src/run.sh; readlink /opt/src/link; stat -c '%a %U' /opt/src/sub/big"); got != "ran\nsub/big\n600 agent" {
		t.Errorf("%q", got)
	}
	if sum := sh(t, sb, "sha256sum < /opt/src/sub/big | cut -c1-64"); sum != fmt.Sprintf("%x", sha256.Sum256(big)) {
		t.Error("the copy differs")
	}
	must[smolvm.Copied](t)(sb.CopyOut(ctx, "/opt/src", filepath.Join(dir, "back"), smolvm.CopyOptions{}))
	back, err := os.ReadFile(filepath.Join(dir, "back", "sub", "big"))
	if err != nil || !bytes.Equal(back, big) {
		t.Errorf("%d bytes came back, %v", len(back), err)
	}
	if to, _ := os.Readlink(filepath.Join(dir, "back", "link")); to != "sub/big" {
		t.Errorf("link to %q", to)
	}
	if _, err := sb.CopyOut(ctx, "/nonesuch", dir, smolvm.CopyOptions{}); !errors.Is(err, smolvm.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := sb.CopyIn(ctx, filepath.Join(dir, "nonesuch"), "/tmp", smolvm.CopyOptions{}); !errors.Is(err, smolvm.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func testWatch(t *testing.T, sb *smolvm.Sandbox) {
	sh(t, sb, "mkdir -p /srv/w/deep")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The watch stands when its first event comes: write until one does.
	go func() {
		for ctx.Err() == nil {
			sb.Run(ctx, smolvm.ShellCommand("echo x > /srv/w/deep/f"))
		}
	}()
	var got smolvm.FileEvent
	err := sb.WatchFiles(ctx, "/srv/w", true, func(e smolvm.FileEvent) bool {
		got = e
		return false
	})
	if err != nil || !strings.HasSuffix(got.Path, "deep/f") {
		t.Errorf("%+v, %v", got, err)
	}
}

func testPause(t *testing.T, sb *smolvm.Sandbox) {
	ctx := t.Context()
	for range 2 {
		if err := sb.Pause(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if info := must[smolvm.Info](t)(sb.Info(ctx)); info.State != api.StatePaused {
		t.Errorf("%s", info.State)
	}
	if _, err := sb.Run(ctx, smolvm.ShellCommand("true")); !errors.Is(err, smolvm.ErrConflict) {
		t.Errorf("run in a paused sandbox: %v", err)
	}
	for range 2 {
		if err := sb.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, sb, "true")
}

func testNames(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox) {
	ctx := t.Context()
	if _, err := c.Create(ctx, smolvm.Spec{Name: "web"}); !errors.Is(err, smolvm.ErrConflict) {
		t.Errorf("a second web: %v", err)
	}
	if err := sb.Rename(ctx, "Not A Name"); !errors.Is(err, smolvm.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if err := sb.Rename(ctx, "api"); err != nil {
		t.Fatal(err)
	}
	if got := must[*smolvm.Sandbox](t)(c.Get(ctx, "api")); got.ID() != sb.ID() {
		t.Errorf("api is %s", got.ID())
	}
	if _, err := c.Get(ctx, "web"); !errors.Is(err, smolvm.ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
}

func testStopStart(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox) {
	ctx := t.Context()
	sh(t, sb, "echo kept > /root/kept")
	for range 2 {
		if err := sb.Stop(ctx, smolvm.StopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	info := must[smolvm.Info](t)(sb.Info(ctx))
	if info.State != api.StateStopped || info.VMMPID != 0 || info.SupervisorPID != 0 {
		t.Errorf("%+v", info)
	}
	if _, err := sb.Run(ctx, smolvm.ShellCommand("true")); !errors.Is(err, smolvm.ErrUnavailable) {
		t.Errorf("run in a stopped sandbox: %v", err)
	}
	must[api.EnvChanged](t)(sb.ChangeEnv(ctx, api.EnvChange{Set: map[string]string{"LATE": "1"}}))
	if err := sb.Rename(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := sb.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := sh(t, sb, "cat /root/kept; echo $LATE; hostname"); got != "kept\n1\nweb" {
		t.Errorf("%q", got)
	}
}
