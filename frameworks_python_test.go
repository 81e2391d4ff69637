package smolvm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/smolvm/smolvm/internal/testenv"
)

const pythonExamples = "examples/python"

// TestVMFrameworksPython runs each program of examples/python with the framework
// that it is for.
func TestVMFrameworksPython(t *testing.T) {
	w := newFrameworkWorld(t)
	runExamples(t, w, "Python", pythonRows(t))
}

// pythonRow fills in what all programs in Python have in common. The package that
// names the version is one of the requirements file.
func pythonRow(t *testing.T, requirements, pkg string, e example) example {
	file := filepath.Join(pythonExamples, requirements)
	e.version = pinned(t, file, pkg)
	e.program = filepath.Join(pythonExamples, e.program)
	e.command = func(t *testing.T, w *frameworkWorld, e example) *exec.Cmd {
		source, err := filepath.Abs("python/src")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(testenv.Python(t, file), e.program)
		cmd.Env = []string{"PYTHONPATH=" + source, "PYTHONDONTWRITEBYTECODE=1", "OPENAI_AGENTS_DISABLE_TRACING=1"}
		return cmd
	}
	return e
}

// pinned returns the version of a package in a requirements file.
func pinned(t *testing.T, file, pkg string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(pkg) + `==(\S+)$`).FindSubmatch(b)
	if found == nil {
		t.Fatalf("%s pins no %s", file, pkg)
	}
	return string(found[1])
}

func pythonRows(t *testing.T) []example { return nil }
