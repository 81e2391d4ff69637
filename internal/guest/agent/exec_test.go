package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

func sh(script string) guest.Exec { return guest.Exec{Shell: guest.ShellRaw, Argv: []string{script}} }

func TestExec(t *testing.T) {
	c := serve(t, agent.Options{})
	for _, test := range []struct {
		name     string
		exec     guest.Exec
		out, err string
		code     int
	}{
		{"true", guest.Exec{Argv: []string{"true"}}, "", "", 0},
		{"false", guest.Exec{Argv: []string{"false"}}, "", "", 1},
		{"stdout", guest.Exec{Argv: []string{"echo", "a b"}}, "a b\n", "", 0},
		{"stderr", sh("echo x >&2; exit 7"), "", "x\n", 7},
		{"signal", sh("kill -9 $$"), "", "", 137},
		{"stdin is at its end", guest.Exec{Argv: []string{"cat"}}, "", "", 0},
		{"env", guest.Exec{Argv: []string{"sh", "-c", "echo $A $HOME $USER"}, Env: []string{"A=1"}}, "1 /root root\n", "", 0},
		{"dir", guest.Exec{Argv: []string{"pwd"}, Dir: "/usr/bin"}, "/usr/bin\n", "", 0},
		{"user", guest.Exec{Argv: []string{"id", "-un"}, User: "nobody"}, "nobody\n", "", 0},
		{"uid and group", guest.Exec{Argv: []string{"sh", "-c", "id -u; id -g"}, User: "1234:daemon"}, "1234\n1\n", "", 0},
		{"login shell", guest.Exec{Argv: []string{"echo $0 $1", "x"}, Shell: guest.ShellLogin}, "bash x\n", "", 0},
		{"background child", sh("sleep 60 & echo started"), "started\n", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := c.Run(testContext(t), test.exec)
			if err != nil {
				t.Fatal(err)
			}
			if string(r.Stdout) != test.out || string(r.Stderr) != test.err || r.Code != test.code {
				t.Errorf("code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
			}
		})
	}
}

func TestExecRefused(t *testing.T) {
	c := serve(t, agent.Options{})
	for _, test := range []struct {
		name  string
		exec  guest.Exec
		class api.Class
		text  string
	}{
		{"no command", guest.Exec{}, api.Invalid, "no command"},
		{"empty command", guest.Exec{Argv: []string{""}}, api.Invalid, "no command"},
		{"missing program", guest.Exec{Argv: []string{"no-such-program"}}, api.NotFound, `"no-such-program"`},
		{"missing path", guest.Exec{Argv: []string{"/no/such"}}, api.NotFound, `"/no/such"`},
		{"not executable", guest.Exec{Argv: []string{"/etc/passwd"}}, api.Denied, `"/etc/passwd"`},
		{"directory", guest.Exec{Argv: []string{"/etc"}}, api.Invalid, `"/etc"`},
		{"missing directory", guest.Exec{Argv: []string{"true"}, Dir: "/nowhere"}, api.Invalid, `"/nowhere"`},
		{"relative directory", guest.Exec{Argv: []string{"true"}, Dir: "x"}, api.Invalid, `"x"`},
		{"file as directory", guest.Exec{Argv: []string{"true"}, Dir: "/etc/passwd"}, api.Invalid, `"/etc/passwd"`},
		{"unknown user", guest.Exec{Argv: []string{"true"}, User: "nosuchuser"}, api.Invalid, `"nosuchuser"`},
		{"unknown group", guest.Exec{Argv: []string{"true"}, User: "root:nosuchgroup"}, api.Invalid, `"nosuchgroup"`},
		{"bad environment", guest.Exec{Argv: []string{"true"}, Env: []string{"x"}}, api.Invalid, `"x"`},
		{"zero byte", guest.Exec{Argv: []string{"echo", "a\x00b"}}, api.Invalid, "zero byte"},
		{"unknown shell", guest.Exec{Argv: []string{"true"}, Shell: 9}, api.Invalid, "shell 9"},
		{"negative timeout", guest.Exec{Argv: []string{"true"}, TimeoutMS: -1}, api.Invalid, "timeout"},
		{"huge terminal", guest.Exec{Argv: []string{"true"}, TTY: true, Rows: 1 << 20}, api.Invalid, "terminal"},
		{"too long an argument", guest.Exec{Argv: []string{"true", strings.Repeat("x", 1<<20)}}, api.Invalid, "too long"},
		{"too long a request", guest.Exec{Argv: []string{"true", strings.Repeat("x", 5<<20)}}, api.Exhausted, "request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Run(testContext(t), test.exec)
			if api.ClassOf(err) != test.class || !strings.Contains(err.Error(), test.text) {
				t.Errorf("class %q: %v", api.ClassOf(err), err)
			}
		})
	}
}

// start starts a process that is closed at the end of the test.
func start(t *testing.T, c guest.Client, e guest.Exec) *guest.Process {
	t.Helper()
	p, err := c.Exec(testContext(t), e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// expect reads output until it has want.
func expect(t *testing.T, p *guest.Process, want string) {
	t.Helper()
	got := ""
	for !strings.Contains(got, want) {
		o, err := p.Recv()
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got += string(o.Data)
	}
}

// ended waits until a process of this machine is gone.
func ended(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for syscall.Kill(pid, 0) == nil && !zombie(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
		runtime.Gosched()
	}
}

// zombie reports whether a process only waits for its parent.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestInput(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, guest.Exec{Argv: []string{"cat"}, Stdin: true})
	for i := range 3 {
		line := fmt.Sprintf("line %d\n", i)
		if _, err := p.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		expect(t, p, line)
	}
	p.CloseInput()
	if e, err := p.Wait(nil, nil); err != nil || e.Code != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestBigInput moves more than all windows and pipes hold, both ways at once.
func TestBigInput(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, guest.Exec{Argv: []string{"cat"}, Stdin: true})
	want := bytes.Repeat([]byte("0123456789abcdef"), 256<<10)
	go func() {
		p.Write(want)
		p.CloseInput()
	}()
	var got bytes.Buffer
	if e, err := p.Wait(&got, nil); err != nil || e.Code != 0 || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%+v, %v, %d bytes", e, err, got.Len())
	}
}

// TestOrder writes to stdout and stderr in turns: they must arrive in turns.
func TestOrder(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, sh("for i in 1 2 3 4 5; do echo o$i; sleep 0.03; echo e$i >&2; sleep 0.03; done"))
	var both bytes.Buffer
	if _, err := p.Wait(&both, &both); err != nil {
		t.Fatal(err)
	}
	if both.String() != "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\n" {
		t.Errorf("%q", both.String())
	}
}

func TestTimeout(t *testing.T) {
	c := serve(t, agent.Options{})
	e := sh("echo before; sleep 61 & echo $!; wait")
	e.TimeoutMS = 300
	r, err := c.Run(testContext(t), e)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(string(r.Stdout), "before\n%d\n", &pid); err != nil || !r.TimedOut || r.Code != 137 {
		t.Errorf("%+v, stdout %q", r.Exit, r.Stdout)
	}
	ended(t, pid)
}

// TestCloseKills closes the stream of a process: it and its children die.
func TestCloseKills(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, sh("sleep 62 & echo $!; wait"))
	o, err := p.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var child int
	fmt.Sscan(string(o.Data), &child)
	p.Close()
	ended(t, p.PID)
	ended(t, child)
}

func TestContextKills(t *testing.T) {
	c := serve(t, agent.Options{})
	ctx, cancel := context.WithCancel(testContext(t))
	p, err := c.Exec(ctx, guest.Exec{Argv: []string{"sleep", "63"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := p.Wait(nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ended(t, p.PID)
}

func TestSignal(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, sh(`trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.01; done`))
	expect(t, p, "ready")
	if err := p.Signal("SIGUSR1"); err != nil {
		t.Fatal(err)
	}
	expect(t, p, "caught")
	if e, err := p.Wait(nil, nil); err != nil || e.Code != 3 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestTerminal(t *testing.T) {
	c := serve(t, agent.Options{})
	e := sh("tty -s && stty size; echo $TERM; read x; stty size; echo got $x; exit 5")
	e.TTY, e.Rows, e.Cols = true, 33, 101
	p := start(t, c, e)
	expect(t, p, "33 101")
	if err := p.Resize(44, 55); err != nil {
		t.Fatal(err)
	}
	p.Write([]byte("word\n"))
	var out bytes.Buffer
	exit, err := p.Wait(&out, nil)
	if err != nil || exit.Code != 5 || !strings.Contains(out.String(), "44 55") || !strings.Contains(out.String(), "got word\r\n") {
		t.Errorf("%+v, %v, %q", exit, err, out.String())
	}
}

func TestTerminalInterrupt(t *testing.T) {
	c := serve(t, agent.Options{})
	// exec: a shell that is about to start a child with vfork(2), as dash does, loses
	// a SIGINT of that moment.
	e := guest.Exec{Argv: []string{"sh", "-c", "echo ready; exec sleep 64"}, TTY: true}
	p := start(t, c, e)
	expect(t, p, "ready")
	p.Write([]byte{3}) // ^C
	if exit, err := p.Wait(nil, nil); err != nil || exit.Signal != "SIGINT" && exit.Code != 130 {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestOutputLimit(t *testing.T) {
	c := serve(t, agent.Options{})
	e := sh("head -c 3000000 /dev/zero; echo x >&2")
	e.OutputLimit = 100_000
	r, err := c.Run(testContext(t), e)
	if err != nil || !r.Truncated || len(r.Stdout) != 100_000 || string(r.Stderr) != "x\n" || r.Code != 0 {
		t.Errorf("%+v, %v, %d bytes", r.Exit, err, len(r.Stdout))
	}
}

// TestFloodNobodyReads has a process that writes for ever to a client that does
// not read, and another one beside it that works.
func TestFloodNobodyReads(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, guest.Exec{Argv: []string{"yes"}})
	for range 10 {
		if r, err := c.Run(testContext(t), sh("echo ok")); err != nil || string(r.Stdout) != "ok\n" {
			t.Fatalf("%q, %v", r.Stdout, err)
		}
	}
	p.Close()
	ended(t, p.PID)
}

// TestBackgroundFlood leaves a child that floods the output: the call ends.
func TestBackgroundFlood(t *testing.T) {
	c := serve(t, agent.Options{})
	p := start(t, c, sh("yes & echo pid $!; exit 4"))
	var out bytes.Buffer
	e, err := p.Wait(&out, nil)
	if err != nil || e.Code != 4 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, rest, ok := strings.Cut(out.String(), "pid "); ok {
		var pid int
		fmt.Sscan(rest, &pid)
		syscall.Kill(pid, syscall.SIGKILL)
	} else {
		t.Error("the output is incomplete")
	}
}

func TestManyAtOnce(t *testing.T) {
	c := serve(t, agent.Options{})
	errs := make(chan error)
	const n = 32
	for i := range n {
		go func() {
			r, err := c.Run(testContext(t), sh(fmt.Sprintf("echo %d; exit %d", i, i)))
			if err == nil && (string(r.Stdout) != fmt.Sprintf("%d\n", i) || r.Code != i) {
				err = fmt.Errorf("%d: code %d, %q", i, r.Code, r.Stdout)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestBackground(t *testing.T) {
	c := serve(t, agent.Options{})
	ctx := testContext(t)
	e := sh("echo one; echo two >&2; read x; echo got $x; exit 6")
	e.Stdin, e.Tag = true, "mine"
	st, err := c.Start(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Procs(ctx)
	if err != nil || len(list) != 1 || !list[0].Running || list[0].Tag != "mine" || list[0].PID != st.PID {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := c.Forget(ctx, st.Proc); api.ClassOf(err) != api.Conflict {
		t.Errorf("forget while it runs: %v", err)
	}
	a, err := c.Attach(ctx, guest.ProcRef{Proc: st.Proc})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a, "two")
	a.Close()
	a, err = c.Attach(ctx, guest.ProcRef{Proc: st.Proc, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.Write([]byte("it\n"))
	var out bytes.Buffer
	exit, err := a.Wait(&out, nil)
	if err != nil || exit.Code != 6 || out.String() != "got it\n" {
		t.Errorf("%+v, %v, %q", exit, err, out.String())
	}
	checkEnded(t, c, st.Proc)
}

func checkEnded(t *testing.T, c guest.Client, proc string) {
	t.Helper()
	ctx := testContext(t)
	a, err := c.Attach(ctx, guest.ProcRef{Proc: proc, NoFollow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var out, errs bytes.Buffer
	exit, err := a.Wait(&out, &errs)
	if err != nil || exit.Code != 6 || out.String() != "one\ngot it\n" || errs.String() != "two\n" {
		t.Errorf("log: %+v, %v, %q, %q", exit, err, out.String(), errs.String())
	}
	if err := c.Signal(ctx, proc, "SIGTERM"); api.ClassOf(err) != api.Conflict {
		t.Errorf("signal after the end: %v", err)
	}
	if err := c.Forget(ctx, proc); err != nil {
		t.Error(err)
	}
	if err := c.Forget(ctx, proc); api.ClassOf(err) != api.NotFound {
		t.Errorf("forget twice: %v", err)
	}
}

func TestBackgroundSignal(t *testing.T) {
	c := serve(t, agent.Options{})
	ctx := testContext(t)
	st, err := c.Start(ctx, guest.Exec{Argv: []string{"sleep", "65"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(ctx, st.Proc, "NOSUCH"); api.ClassOf(err) != api.Invalid {
		t.Errorf("unknown signal: %v", err)
	}
	if err := c.Signal(ctx, st.Proc, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	a, err := c.Attach(ctx, guest.ProcRef{Proc: st.Proc})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if e, err := a.Wait(nil, nil); err != nil || e.Signal != "SIGTERM" || e.Code != 143 {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestBackgroundFloodLog keeps only the end of much output.
func TestBackgroundFloodLog(t *testing.T) {
	c := serve(t, agent.Options{})
	ctx := testContext(t)
	st, err := c.Start(ctx, sh("head -c 20000000 /dev/zero; echo; echo end"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Attach(ctx, guest.ProcRef{Proc: st.Proc, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	a.Wait(nil, nil)
	a.Close()
	if a, err = c.Attach(ctx, guest.ProcRef{Proc: st.Proc}); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var out bytes.Buffer
	if _, err := a.Wait(&out, nil); err != nil || out.Len() > guest.LogLimit || out.Len() < guest.LogLimit/2 || !strings.HasSuffix(out.String(), "\nend\n") {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
}

// TestAgentEndsProcesses loses the host: nothing may keep running.
func TestAgentEndsProcesses(t *testing.T) {
	host, port := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), port, agent.Options{}) }()
	s, err := guest.Connect(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	c := guest.Client{Opener: s}
	p, err := c.Exec(testContext(t), guest.Exec{Argv: []string{"sleep", "66"}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.Start(testContext(t), guest.Exec{Argv: []string{"sleep", "67"}})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	ended(t, p.PID)
	ended(t, st.PID)
}
