// Package python_test runs the tests of the Python package: by themselves over a
// gateway that answers as told, and over a real one with real sandboxes.
//
//	go test ./python -run TestPython     # no machine
//	go test ./python -run TestVMPython
package python_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/testenv"
)

// patience bounds a wait: far above what any takes, also under emulation on busy cores.
const patience = 2 * time.Minute

// TestPython checks types and style, and runs the tests over a stub.
func TestPython(t *testing.T) {
	python := testenv.Python(t, "tests/requirements.txt")
	cache, err := os.UserCacheDir() // without one, mypy reads the types of the standard library for half a minute
	if err != nil {
		t.Fatal(err)
	}
	run(t, nil, python, "-m", "mypy", "--no-error-summary", "--cache-dir", filepath.Join(cache, "smolvm-test", "mypy"), "src")
	run(t, nil, python, "-m", "ruff", "check", "--quiet", "--no-cache", ".")
	run(t, []string{"PYTHONPATH=src"}, python, "-W", "error", "-m", "unittest", "discover", "-s", "tests")
}

// TestPythonInstall installs the package as users do, with no registry to be asked.
func TestPythonInstall(t *testing.T) {
	python := venv(t)
	for _, args := range [][]string{{"."}, {"--editable", "."}} {
		pip(t, python, nil, append([]string{"install", "--quiet", "--no-index", "--no-cache-dir", "--force-reinstall"}, args...)...)
		run(t, nil, python, "-I", "-c", "import smolvm; smolvm.SmolVM()")
	}
}

// TestVMPython runs the real tests with a wheel that carries the program.
func TestVMPython(t *testing.T) {
	python := venv(t)
	install(t, python)
	t.Run("gateway", func(t *testing.T) {
		home := testenv.Home(t)
		run(t, []string{"SMOLVM_HOME=" + home, "SMOLVM_BIN=" + testenv.Binary(t)}, python, "-m", "unittest", "discover", "-s", "tests", "-p", "vm_gateway.py")
		end(t, home)
	})
	home := testenv.Home(t)
	serve(t, home)
	out := run(t, []string{"SMOLVM_HOME=" + home}, python, "-m", "unittest", "discover", "-v", "-s", "tests", "-p", "vm_sandbox.py")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "p50") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// venv makes a virtual environment of the test's own, without pip, and returns its python3.
func venv(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, nil, testenv.Python(t, "tests/requirements.txt"), "-m", "venv", "--without-pip", dir)
	return filepath.Join(dir, "bin", "python3")
}

// pip runs the pip of another environment for a python3.
func pip(t *testing.T, python string, env []string, args ...string) {
	t.Helper()
	base := testenv.Python(t, "tests/requirements.txt")
	run(t, env, base, append([]string{"-m", "pip", "--python", python}, args...)...)
}

// install builds a wheel and installs it, and wants the program to be where it is looked for.
func install(t *testing.T, python string) {
	t.Helper()
	dir := t.TempDir()
	pip(t, python, []string{"SMOLVM_WHEEL_BIN=" + testenv.Binary(t)}, "wheel", "--quiet", "--no-index", "--no-deps", "-w", dir, ".")
	wheels, _ := filepath.Glob(filepath.Join(dir, "*.whl"))
	if len(wheels) != 1 || strings.Contains(wheels[0], "-any.whl") {
		t.Fatalf("it built %v", wheels)
	}
	pip(t, python, nil, "install", "--quiet", "--no-index", wheels[0])
	found := run(t, []string{"PATH=/nonexistent"}, python, "-I", "-c", "from smolvm.gateway import find_binary; print(find_binary())")
	if want := filepath.Join(filepath.Dir(python), "smolvm"); strings.TrimSpace(found) != want {
		t.Errorf("the package finds %q, want %q", strings.TrimSpace(found), want)
	}
	run(t, nil, filepath.Join(filepath.Dir(python), "smolvm"), "version")
}

// serve runs the gateway that the tests share.
func serve(t *testing.T, home string) {
	t.Helper()
	cmd := exec.Command(testenv.Binary(t), "serve", "--json")
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+home)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil || !json.Valid(line) {
		t.Fatalf("serve says %q: %v", line, err)
	}
	go io.Copy(io.Discard, out) // ends with the process
}

// end ends the gateways that the package has started, and waits for them.
func end(t *testing.T, home string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		processes := testenv.Processes(home)
		if len(processes) == 0 {
			return
		}
		for _, p := range processes {
			syscall.Kill(p.PID, syscall.SIGTERM)
		}
		if time.Now().After(deadline) {
			t.Fatalf("they do not end: %v", processes)
		}
	}
}

// run runs a program in this directory and returns what it wrote.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(withoutSmolvm(os.Environ()), append([]string{"PYTHONDONTWRITEBYTECODE=1"}, env...)...)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// withoutSmolvm leaves out what would lead the package to another gateway or program.
func withoutSmolvm(env []string) (left []string) {
	for _, e := range env {
		if !strings.HasPrefix(e, "SMOLVM_") && !strings.HasPrefix(e, "PYTHON") {
			left = append(left, e)
		}
	}
	return left
}
