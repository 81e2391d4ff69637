package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smolvm/smolvm/internal/testenv"
)

// TestMain makes this test's own program be smolvm for scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"smolvm": main})
}

// TestScripts runs the scripts that need no machine.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds:                scriptCommands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SMOLVM_HOME", filepath.Join(env.WorkDir, "state"))
			// For scripts that empty PATH.
			program, err := exec.LookPath("smolvm")
			env.Setenv("SMOLVM", program)
			return err
		},
	})
}

// TestVMScripts runs the scripts that boot machines, one after the other.
func TestVMScripts(t *testing.T) {
	binary := testenv.Binary(t)
	params := testscript.Params{
		Dir:                 "testdata/vm",
		RequireExplicitExec: true,
		Cmds:                scriptCommands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SMOLVM_HOME", testenv.Home(env.T().(serial).T))
			// Before this test's own smolvm: the one that was built, with its agent.
			env.Setenv("PATH", filepath.Dir(binary)+":"+env.Getenv("PATH"))
			return nil
		},
	}
	testscript.RunT(serial{t}, params)

	// Some of them again, by way of a gateway, and what cannot be done that way.
	here := params.Setup
	params.Dir, params.Files = "", []string{"testdata/vm/diff.txtar", "testdata/gateway.txtar"}
	params.Setup = func(env *testscript.Env) error {
		if err := here(env); err != nil {
			return err
		}
		env.Setenv("SMOLVM_URL", testenv.Serve(env.T().(serial).T, env.Getenv("SMOLVM_HOME")))
		return nil
	}
	t.Run("behind a gateway", func(t *testing.T) { testscript.RunT(serial{t}, params) })
}

// serial is a test whose scripts do not run side by side: two machines at once
// would make each other late.
type serial struct{ *testing.T }

func (s serial) Parallel()     {}
func (s serial) Verbose() bool { return testing.Verbose() }

func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(serial{t}) })
}

// scriptCommands are what scripts can say beyond testscript's own.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"exits":       exits,
	"interrupted": interrupted,
	"json":        checkJSON,
	"clean":       checkClean,
}

// exits runs a program and compares its exit status: exits CODE PROGRAM ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		if _, scanErr := fmt.Sscanf(err.Error(), "exit status %d", &got); scanErr != nil {
			ts.Fatalf("%v", err)
		}
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// interrupted runs a program, interrupts it as soon as it has printed something,
// and wants 130: interrupted PROGRAM ARG...
func interrupted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: interrupted PROGRAM ARG...")
	}
	program, err := lookPath(ts.Getenv("PATH"), args[0])
	ts.Check(err)
	cmd := exec.Command(program, args[1:]...)
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+ts.Getenv("SMOLVM_HOME"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	if n, _ := out.Read(make([]byte, 1)); n == 0 {
		cmd.Wait()
		ts.Fatalf("it ended by itself: %s", stderr.String())
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		ts.Fatalf("exit status %d, want 130: %s", code, stderr.String())
	}
	ts.Logf("%s", stderr.String())
}

// lookPath finds a program in a script's own PATH.
func lookPath(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not in PATH", name)
}

// checkJSON looks into the JSON that was printed last: json PATH VALUE, where
// PATH is such as error.code or data.sandboxes.0.name, and VALUE is JSON or a
// word. Without VALUE the path must be there; with ! before json it must not.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: json PATH [VALUE]")
	}
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	var v any
	ts.Check(d.Decode(&v))
	if d.More() {
		ts.Fatalf("more than one object on standard output")
	}
	for _, step := range strings.Split(args[0], ".") {
		var ok bool
		switch x := v.(type) {
		case map[string]any:
			v, ok = x[step]
		case []any:
			i, err := strconv.Atoi(step)
			if ok = err == nil && i < len(x); ok {
				v = x[i]
			}
		}
		if !ok {
			if neg {
				return
			}
			ts.Fatalf("there is no %s", args[0])
		}
	}
	if len(args) == 1 {
		if neg {
			ts.Fatalf("%s is there", args[0])
		}
		return
	}
	b, err := json.Marshal(v)
	ts.Check(err)
	word, _ := v.(string)
	if same := string(b) == args[1] || word == args[1] && word != ""; same == neg {
		ts.Fatalf("%s is %s, want %s", args[0], b, args[1])
	}
}

// checkClean wants nothing of sandboxes to be left: no process, no file.
func checkClean(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: clean")
	}
	if left := lasting(ts.Getenv("SMOLVM_HOME")); left != "" {
		ts.Fatalf("left behind:%s", left)
	}
}

// lasting is leftovers that do not go away by themselves: a supervisor ends a
// moment after it has told its client that all is gone.
func lasting(home string) string {
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := leftovers(home)
		if left == "" || time.Now().After(deadline) {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leftovers lists what lives, or lies, in a state directory.
func leftovers(home string) string {
	var b bytes.Buffer
	for _, p := range testenv.Processes(home) {
		serves := len(p.Args) > 1 && p.Args[1] == "serve" // the test's own gateway
		if p.PID != os.Getpid() && !serves {
			fmt.Fprintf(&b, " process %v", p)
		}
	}
	for _, f := range testenv.Files(home) {
		fmt.Fprintf(&b, " file %s", f)
	}
	return b.String()
}
