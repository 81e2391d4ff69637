package smolvm_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/model"
)

var update = flag.Bool("update", false, "write docs/frameworks.md anew")

// frameworksDoc is the table of what was run. Each language's test owns a section.
const frameworksDoc = "docs/frameworks.md"

// exampleTimeout bounds a program: minutes where a framework is imported for the
// first time and the machines are emulated.
const exampleTimeout = 5 * time.Minute

// goneTimeout is how long sandboxes may outlive the program that they are tied to.
const goneTimeout = 20 * time.Second

// example is a program for a framework, and a row of the table.
type example struct {
	framework string // as its makers write it
	version   string // of its package, as pinned
	way       string // package, MCP or HTTP
	program   string // path below the repository
	script    []model.Step
	// aside answers requests that offer no tools; see model.Model.
	aside string
	// want are texts that the program must print.
	want []string
	// command makes the program's command in a world; its environment is added to.
	command func(t *testing.T, w *frameworkWorld, e example) *exec.Cmd
	// env adds to the program's environment, where set.
	env func(t *testing.T, w *frameworkWorld) []string
	// check looks further at what the model was asked.
	check func(t *testing.T, w *frameworkWorld, m *model.Model)
}

// frameworkWorld is where the examples of a language run: a state directory of
// their own, in which none of them may leave a sandbox.
type frameworkWorld struct {
	client *smolvm.Client
	env    []string
	boot   string // tells this machine's kernel from a sandbox's
}

func newFrameworkWorld(t *testing.T) *frameworkWorld {
	c := &smolvm.Client{Binary: testenv.Binary(t), Home: testenv.Home(t)}
	t.Cleanup(func() { endGateways(t, c.Home) })
	boot := must[[]byte](t)(os.ReadFile("/proc/sys/kernel/random/boot_id"))
	return &frameworkWorld{client: c, boot: strings.TrimSpace(string(boot)), env: append(os.Environ(),
		"SMOLVM_BIN="+c.Binary, "SMOLVM_HOME="+c.Home, "HOME="+t.TempDir(), "PATH="+onPath(t, c)+":"+os.Getenv("PATH"))}
}

// onPath makes a directory for PATH with a smolvm that knows the test's state
// directory: MCP clients start servers with little of their own environment.
func onPath(t *testing.T, c *smolvm.Client) string {
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nSMOLVM_HOME='%s' exec '%s' \"$@\"\n", c.Home, c.Binary)
	if err := os.WriteFile(filepath.Join(dir, "smolvm"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// endGateways ends the gateways that examples have started and that would wait for
// more to do. Examples whose interpreter is gone no longer need them.
func endGateways(t *testing.T, home string) {
	for _, p := range testenv.Processes(home) {
		if len(p.Args) > 1 && p.Args[1] == "serve" {
			syscall.Kill(p.PID, syscall.SIGTERM)
			pid := p.PID
			eventually(t, func() bool { return syscall.Kill(pid, 0) != nil })
		}
	}
}

// runExamples runs examples, one after the other, and compares their rows with the
// language's section of the table.
func runExamples(t *testing.T, w *frameworkWorld, language string, list []example) {
	var rows strings.Builder
	ran := 0
	for _, e := range list {
		result := "did not run"
		t.Run(strings.ReplaceAll(e.framework, " ", "-")+"/"+filepath.Base(e.program), func(t *testing.T) {
			ran++
			runExample(t, w, e)
			result = "works"
		})
		fmt.Fprintf(&rows, "| %s | %s | %s | [%s](../%s) | %s |\n", e.framework, e.version, e.way, filepath.Base(e.program), e.program, result)
	}
	if ran == len(list) { // not only those that -run asks for
		compareTable(t, language, rows.String())
	}
}

func runExample(t *testing.T, w *frameworkWorld, e example) {
	m := model.New(e.script...)
	m.Key, m.Aside = "test-key", e.aside
	srv := httptest.NewServer(m)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), exampleTimeout)
	defer cancel()
	cmd := e.command(t, w, e)
	cmd = within(ctx, cmd)
	cmd.Env = append(append(append([]string{}, w.env...), cmd.Env...),
		"OPENAI_BASE_URL="+srv.URL+"/v1", "OPENAI_API_KEY="+m.Key, "ANTHROPIC_BASE_URL="+srv.URL, "ANTHROPIC_API_KEY="+m.Key)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v", e.program, err)
	}
	t.Logf("%v", time.Since(start).Round(time.Millisecond))
	for _, want := range e.want {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the output", want)
		}
	}
	if len(e.script) > 0 {
		if err := m.Err(); err != nil {
			t.Errorf("model: %v", err)
		}
	}
	for _, q := range m.Requests() {
		if strings.Contains(strings.Join(q.Results, " "), w.boot) {
			t.Errorf("a command ran on this machine, not in a sandbox: %q", q.Results)
		}
	}
	if e.check != nil {
		e.check(t, w, m)
	}
	noSandboxes(t, w.client)
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", out.String(), errs.String())
		t.FailNow()
	}
}

// within makes a command again that ends with a context.
func within(ctx context.Context, cmd *exec.Cmd) *exec.Cmd {
	c := exec.CommandContext(ctx, cmd.Args[0], cmd.Args[1:]...)
	c.Dir, c.Env, c.Stdin = cmd.Dir, cmd.Env, cmd.Stdin
	// Interpreters get a chance to clean up, and children that hold the output do
	// not hold the test.
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	return c
}

// noSandboxes waits until what a program has made is gone: its gateway hears of its
// end a moment later. What stays fails the test, and is removed for the next one.
func noSandboxes(t *testing.T, c *smolvm.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), goneTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		list := must[[]smolvm.Info](t)(c.List(context.Background(), smolvm.ListOptions{}))
		if len(list) == 0 {
			return
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		for _, info := range list {
			t.Errorf("left behind: %+v", info)
			if sb, err := c.Get(context.Background(), info.ID); err == nil {
				sb.Remove(context.Background())
			}
		}
		return
	}
}

// compareTable compares a language's rows with the table, or writes them into it.
func compareTable(t *testing.T, language, rows string) {
	t.Helper()
	got := "## " + language + "\n\n| framework | version | way | program | result |\n|---|---|---|---|---|\n" + rows
	b, err := os.ReadFile(frameworksDoc)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	before, section, found := strings.Cut(doc, "## "+language+"\n")
	section, after, more := strings.Cut(section, "\n## ")
	if found && "## "+language+"\n"+strings.TrimRight(section, "\n")+"\n" == got {
		return
	}
	if !*update {
		t.Errorf("%s differs; go test . -run %s -update writes it.\nwant\n%s", frameworksDoc, t.Name(), got)
		return
	}
	if !found {
		before += "\n"
	}
	if more {
		after = "\n## " + after
	}
	if err := os.WriteFile(frameworksDoc, []byte(before+got+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
