package guesttest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/guesttest"
)

// TestVM boots one guest and asks everything of it that only a real one can
// answer. The order matters where a part ends what others need.
func TestVM(t *testing.T) {
	m := guesttest.Boot(t)
	began := time.Now()
	v := &vm{m: m}
	v.dial(t)
	t.Logf("agent answered after %v", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() { v.s.Close() })
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"setup", v.testSetup},
		{"system", v.testSystem},
		{"user", v.testUser},
		{"terminal", v.testTerminal},
		{"timeout", v.testTimeout},
		{"orphans", v.testOrphans},
		{"memory", v.testMemory},
		{"forks", v.testForks},
		{"kill everything", v.testKillEverything},
		{"reconnect", v.testReconnect},
		{"changes", v.testChanges},
		{"copies", v.testCopies},
		{"full disk", v.testFullDisk},
		{"round trip", v.testRoundTrip},
		{"shutdown", v.testShutdown},
	} {
		if !t.Run(part.name, part.test) {
			t.Logf("console:\n%s", m.LastWords())
		}
	}
}

type vm struct {
	m *guesttest.Machine
	s *guest.Session
	c guest.Client
}

func (v *vm) dial(t *testing.T) {
	t.Helper()
	v.s = v.m.Dial(t)
	v.c = guest.Client{Opener: v.s}
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// sh runs a script, which must succeed, and returns its output.
func (v *vm) sh(t *testing.T, script string) string {
	t.Helper()
	r, err := v.c.Run(ctxOf(t), guest.Exec{Shell: guest.ShellRaw, Argv: []string{script}})
	if err != nil || r.Code != 0 {
		t.Fatalf("%s: %v, %+v\n%s%s", script, err, r.Exit, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

func (v *vm) testSetup(t *testing.T) {
	ctx := ctxOf(t)
	info, err := v.c.Info(ctx)
	if err != nil || info.Kernel == "" || len(info.BootMS) < 5 {
		t.Fatalf("%+v, %v", info, err)
	}
	t.Logf("boot: %s", strings.Join(info.BootMS, " "))
	seed := make([]byte, 64)
	rand.Read(seed)
	want := guest.Setup{
		Hostname: "tester", TimeNS: time.Now().Add(time.Hour).UnixNano(), Seed: seed, GrowDisk: true,
		MachineID: "0123456789abcdef0123456789abcdef",
	}
	if err := v.c.Setup(ctx, want); err != nil {
		t.Fatal(err)
	}
	if err := v.c.Setup(ctx, want); err != nil {
		t.Errorf("again: %v", err)
	}
	if got := v.sh(t, "hostname; cat /etc/machine-id; getent hosts tester | cut -c1-9"); got != "tester\n"+want.MachineID+"\n127.0.1.1" {
		t.Errorf("%q", got)
	}
	var now int64
	fmt.Sscan(v.sh(t, "date +%s"), &now)
	if d := time.Unix(now, 0).Sub(time.Unix(0, want.TimeNS)); d < -time.Second || d > time.Minute {
		t.Errorf("the clock is %v off", d)
	}
	s, err := v.c.Stats(ctx)
	if err != nil || s.DiskTotalKiB < (guesttest.DiskMiB-100)<<10 {
		t.Errorf("the disk has not grown: %+v, %v", s, err)
	}
	if err := v.c.Setup(ctx, guest.Setup{TimeNS: time.Now().UnixNano()}); err != nil {
		t.Error(err)
	}
}

func (v *vm) testSystem(t *testing.T) {
	for _, test := range [][2]string{
		{"stat -f -c %T /", "overlayfs"},
		{"stat -f -c %T /proc /sys /dev/pts /run /dev/shm /sys/fs/cgroup", "proc\nsysfs\ndevpts\ntmpfs\ntmpfs\ncgroup2fs"},
		{"stat -c %a /tmp /var/tmp /run /root", "1777\n1777\n755\n700"},
		{"readlink /dev/fd; echo x > /dev/null; head -c1 /dev/zero | wc -c", "/proc/self/fd\n1"},
		{"cat /sys/class/net/lo/operstate; ls /sys/class/net", "unknown\nlo"},
		{"cat /proc/1/comm; ps -o ppid= -p $$ | tr -d ' '", "init\n1"},
		{"ulimit -n; ulimit -Hn", "65536\n1048576"},
		{"python3 -c 'import socket; s=socket.create_server((\"127.0.0.1\",0)); socket.create_connection(s.getsockname()); print(1)'", "1"},
		{"ls /base /rw /modules 2>&1 | grep -c 'No such'", "3"},
		{"cat /proc/self/oom_score_adj", "0"},
		{"python3 -c 'import os; os.rename(\"/etc/debian_version\", \"/etc/dv\"); print(open(\"/etc/dv\").read()[:2])'", "12"},
		{"stat -c %d /etc/passwd /etc/dv | uniq | wc -l", "1"},
		{"touch /etc/x && ls /etc/x && rm /etc/x && mkdir -p /usr/share/doc && rm -r /usr/share/doc && ls /usr/share/doc 2>&1 | grep -c No", "/etc/x\n1"},
	} {
		if got := v.sh(t, test[0]); got != test[1] {
			t.Errorf("%s\n got %q\nwant %q", test[0], got, test[1])
		}
	}
}

func (v *vm) testUser(t *testing.T) {
	v.sh(t, "groupadd -f extra && usermod -aG extra agent")
	e := guest.Exec{Argv: []string{"sh", "-c", "id -un; id -Gn; pwd; echo $HOME $USER $SHELL; touch /etc/x 2>&1 | grep -c denied; ulimit -c"}, User: "agent"}
	r, err := v.c.Run(ctxOf(t), e)
	if err != nil || !strings.Contains(string(r.Stdout), "agent\nagent extra\n/home/agent\n/home/agent agent /bin/bash\n1\n") {
		t.Errorf("%q %q, %v", r.Stdout, r.Stderr, err)
	}
	login := guest.Exec{Argv: []string{"shopt -q login_shell && echo login"}, User: "agent", Shell: guest.ShellLogin}
	if r, err := v.c.Run(ctxOf(t), login); err != nil || string(r.Stdout) != "login\n" {
		t.Errorf("%q %q, %v", r.Stdout, r.Stderr, err)
	}
}

func (v *vm) testTerminal(t *testing.T) {
	e := guest.Exec{Argv: []string{"sh", "-c", "tty; stty size; stat -c %U:%a $(tty); exec 3</dev/tty && echo controlling"}, TTY: true, Rows: 30, Cols: 90, User: "agent"}
	p, err := v.c.Exec(ctxOf(t), e)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var out bytes.Buffer
	if exit, err := p.Wait(&out, nil); err != nil || exit.Code != 0 || !strings.HasPrefix(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "30 90\r\nagent:620\r\ncontrolling") {
		t.Errorf("%+v, %v, %q", exit, err, out.String())
	}
}

// testTimeout has a process that tries to escape its group: the control group
// holds it.
func (v *vm) testTimeout(t *testing.T) {
	e := guest.Exec{Shell: guest.ShellRaw, Argv: []string{"setsid sleep 71 & echo printed; sleep 72"}, TimeoutMS: 500}
	r, err := v.c.Run(ctxOf(t), e)
	if err != nil || !r.TimedOut || string(r.Stdout) != "printed\n" {
		t.Errorf("%+v, %v", r, err)
	}
	if got := v.sh(t, "for i in $(seq 50); do pgrep -x sleep >/dev/null || break; sleep 0.1; done; pgrep -c -x sleep || true"); got != "0" {
		t.Errorf("%s processes are left", got)
	}
}

// testOrphans makes many orphans while others run: none stays a zombie, and no
// exit status is lost.
func (v *vm) testOrphans(t *testing.T) {
	errs := make(chan error)
	const n = 8
	for i := range n {
		go func() {
			r, err := v.c.Run(ctxOf(t), guest.Exec{Shell: guest.ShellRaw, Argv: []string{fmt.Sprintf("for i in 1 2 3 4 5; do (sleep 0.05 &) ; done; exit %d", i+1)}})
			if err == nil && r.Code != i+1 {
				err = fmt.Errorf("code %d, not %d", r.Code, i+1)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	v.sh(t, "for i in $(seq 100); do ps -eo state= | grep -q Z || exit 0; sleep 0.05; done; ps -ef; exit 1")
}

// testMemory has a process that takes all memory.
func (v *vm) testMemory(t *testing.T) {
	e := guest.Exec{Argv: []string{"python3", "-c", "b=[]\nwhile 1: b.append(bytearray(1<<24))"}}
	r, err := v.c.Run(ctxOf(t), e)
	if err != nil || !r.OOM || r.Signal != "SIGKILL" {
		t.Errorf("%+v %s, %v", r.Exit, r.Stderr, err)
	}
	v.sh(t, "true")
}

// testForks has a process that starts processes without end: others still start,
// and it can be ended.
func (v *vm) testForks(t *testing.T) {
	p, err := v.c.Exec(ctxOf(t), guest.Exec{Argv: []string{"bash", "-c", "f() { f | f & }; echo go; f; sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Recv(); err != nil {
		t.Fatal(err)
	}
	r, err := v.c.Run(ctxOf(t), guest.Exec{Argv: []string{"sleep", "2"}})
	if err != nil || r.Code != 0 {
		t.Errorf("beside the bomb: %+v, %v", r.Exit, err)
	}
	p.Close()
	deadline := time.Now().Add(time.Minute)
	for {
		s, err := v.c.Stats(ctxOf(t))
		if err != nil {
			t.Fatal(err)
		}
		if s.Procs < 150 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes are left", s.Procs)
		}
	}
}

// testKillEverything has root kill every process it can: the agent stays.
func (v *vm) testKillEverything(t *testing.T) {
	r, err := v.c.Run(ctxOf(t), guest.Exec{Shell: guest.ShellRaw, Argv: []string{"kill -9 1; kill -TERM 1; kill -9 -1"}})
	if err != nil || r.Signal != "SIGKILL" && r.Code != 0 {
		t.Errorf("%+v, %v", r.Exit, err)
	}
	v.sh(t, "true")
}

// testReconnect loses the host in the middle of everything: what the host ran
// ends, background processes stay.
func (v *vm) testReconnect(t *testing.T) {
	ctx := ctxOf(t)
	st, err := v.c.Start(ctx, guest.Exec{Argv: []string{"sh", "-c", "echo kept; exec sleep 1073"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := v.c.Exec(ctx, guest.Exec{Argv: []string{"yes"}}); err != nil {
			t.Fatal(err)
		}
		v.s.Close()
		v.dial(t)
	}
	v.sh(t, "for i in $(seq 100); do pgrep -x yes >/dev/null || exit 0; sleep 0.05; done; exit 1")
	l, err := v.c.Procs(ctx)
	if err != nil || len(l) != 1 || l[0].Proc != st.Proc || !l[0].Running {
		t.Fatalf("%+v, %v", l, err)
	}
	a, err := v.c.Attach(ctx, guest.ProcRef{Proc: st.Proc})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if o, err := a.Recv(); err != nil || string(o.Data) != "kept\n" {
		t.Errorf("%q, %v", o.Data, err)
	}
	if err := v.c.Signal(ctx, st.Proc, "SIGKILL"); err != nil {
		t.Error(err)
	}
}

// testChanges compares the layer of changes with what was done.
func (v *vm) testChanges(t *testing.T) {
	ctx := ctxOf(t)
	v.sh(t, `mkdir -p /work/old/deep /work/gone && cd /work && echo 1 > old/f && echo 1 > old/deep/f && echo 1 > gone/f && echo 1 > edited && echo 1 > kept && rm -f /etc/motd`)
	if err := v.c.Mark(ctx); err != nil {
		t.Fatal(err)
	}
	if l := v.layer(t); len(l) != 0 {
		t.Errorf("changes without a change: %v", l)
	}
	v.sh(t, `cd /work && echo 2 > edited && rm -r gone && rm old/deep/f && rm -r old/deep && mkdir old/deep && echo 3 > old/deep/g &&
		rm /etc/issue && chmod 600 /etc/hostname && mkdir -p /new/a && ln -s x /new/l && echo h > /new/h1 && ln /new/h1 /new/h2 &&
		rm -r /usr/share/man && mkdir /usr/share/man && echo m > /usr/share/man/m && setcap cap_net_raw+ep /new/h1 2>/dev/null; setfattr -n user.x -v y /new/h1 2>/dev/null; true`)
	l := v.layer(t)
	for _, want := range []string{
		"work/edited", "work/.wh.gone", "work/old/deep/g", "etc/.wh.issue", "etc/hostname",
		"new/a/", "new/l", "new/h1", "new/h2", "usr/share/man/.wh..wh..opq", "usr/share/man/m", "work/", "new/", "usr/share/man/",
	} {
		if _, ok := l[want]; !ok {
			t.Errorf("%s is missing", want)
		}
	}
	// Whether the new directory has the old one's inode is the file system's choice.
	if l["work/old/deep/.wh..wh..opq"] == nil && l["work/old/deep/.wh.f"] == nil {
		t.Error("what was in a directory that was made anew shows through")
	}
	for _, no := range []string{"work/kept", "work/old/f", "etc/.wh.motd", "work/gone/", "etc/passwd"} {
		if _, ok := l[no]; ok {
			t.Errorf("%s is there", no)
		}
	}
	if h := l["new/h2"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "new/h1" {
		t.Errorf("the hard link: %+v", h)
	}
	if h := l["etc/hostname"]; h == nil || h.Mode != 0o600 {
		t.Errorf("the mode: %+v", h)
	}
	if t.Failed() {
		t.Logf("%d entries: %v", len(l), slices.Sorted(keys(l)))
	}
}

func keys(m map[string]*tar.Header) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// layer reads the changes.
func (v *vm) layer(t *testing.T) map[string]*tar.Header {
	t.Helper()
	r, err := v.c.Changes(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return l
		}
		if err != nil {
			t.Fatal(err)
		}
		l[h.Name] = h
	}
}

// copySize is what goes over each way, in bytes. It is written to memory's file
// system so that the disk is not what is measured.
const copySize = 64 << 20

func (v *vm) testCopies(t *testing.T) {
	ctx := ctxOf(t)
	before := v.agentRSS(t)
	began := time.Now()
	if _, err := v.c.WriteFile(ctx, guest.Write{Path: "/var/tmp/big"}, io.LimitReader(zeros{}, copySize)); err != nil {
		t.Fatal(err)
	}
	t.Logf("in: %.0f MB/s", copySize/1e6/time.Since(began).Seconds())
	began = time.Now()
	_, r, err := v.c.ReadFile(ctx, guest.Read{Path: "/var/tmp/big"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err != nil || n != copySize {
		t.Errorf("%d bytes, %v", n, err)
	}
	t.Logf("out: %.0f MB/s", copySize/1e6/time.Since(began).Seconds())
	after := v.agentRSS(t)
	t.Logf("agent: %d KiB before, %d KiB after", before, after)
	if after > 40<<10 {
		t.Errorf("the agent takes %d KiB", after)
	}
	v.sh(t, "rm /var/tmp/big")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (v *vm) agentRSS(t *testing.T) int64 {
	t.Helper()
	ps, err := v.c.Ps(ctxOf(t))
	if err != nil || len(ps) == 0 || ps[0].PID != 1 {
		t.Fatalf("%+v, %v", ps, err)
	}
	return ps[0].RSSKiB
}

func (v *vm) testFullDisk(t *testing.T) {
	_, err := v.c.WriteFile(ctxOf(t), guest.Write{Path: "/var/tmp/full"}, zeros{})
	if api.ClassOf(err) != api.Exhausted {
		t.Errorf("%v", err)
	}
	r, err := v.c.Run(ctxOf(t), guest.Exec{Shell: guest.ShellRaw, Argv: []string{"cat /dev/zero > /var/tmp/full; echo still here; rm /var/tmp/full"}})
	if err != nil || string(r.Stdout) != "still here\n" {
		t.Errorf("%+v, %v", r, err)
	}
	if got := v.sh(t, "ls -A /var/tmp"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func (v *vm) testRoundTrip(t *testing.T) {
	const n = 60
	measure := func(name string, f func() error) {
		var d []time.Duration
		for range n {
			began := time.Now()
			if err := f(); err != nil {
				t.Fatal(err)
			}
			d = append(d, time.Since(began))
		}
		slices.Sort(d)
		t.Logf("%s: p50 %v, p95 %v", name, d[n/2].Round(time.Microsecond), d[n*95/100].Round(time.Microsecond))
	}
	ctx := ctxOf(t)
	measure("stat", func() error { _, err := v.c.Stat(ctx, guest.Path{Path: "/"}); return err })
	measure("exec true", func() error { _, err := v.c.Run(ctx, guest.Exec{Argv: []string{"/bin/true"}}); return err })
}

// background starts a script and waits until it says that it is ready.
func (v *vm) background(t *testing.T, script string) {
	t.Helper()
	st, err := v.c.Start(ctxOf(t), guest.Exec{Shell: guest.ShellRaw, Argv: []string{script}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := v.c.Attach(ctxOf(t), guest.ProcRef{Proc: st.Proc})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if o, err := a.Recv(); err != nil || string(o.Data) != "ready\n" {
		t.Fatalf("%q, %v", o.Data, err)
	}
}

// testShutdown ends the guest, looks at its disk and starts it again.
func (v *vm) testShutdown(t *testing.T) {
	v.sh(t, "echo survives > /root/f")
	v.background(t, "trap 'echo ended > /root/term; exit' TERM; echo ready; while :; do sleep 0.1; done")
	v.background(t, "trap '' TERM; echo ready; while :; do sleep 1; done")
	began := time.Now()
	if err := v.c.Shutdown(ctxOf(t), guest.Shutdown{GraceMS: 2000}); err != nil {
		t.Fatal(err)
	}
	if err := v.m.Ended(t, 30*time.Second); err != nil {
		t.Errorf("the guest ended: %v", err)
	}
	t.Logf("down after %v", time.Since(began).Round(time.Millisecond))
	v.s.Close()
	if out, err := exec.Command("e2fsck", "-fn", v.m.Writable()).CombinedOutput(); err != nil || strings.Contains(string(out), "recover") {
		t.Errorf("%v\n%s", err, out)
	}
	v.m.Restart(t)
	v.dial(t)
	if got := v.sh(t, "cat /root/f /root/term; hostname"); got != "survives\nended\ntester" {
		t.Errorf("%q", got)
	}
}
