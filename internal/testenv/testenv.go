// Package testenv gives tests a real smolvm: the built program and a state
// directory of their own, with the images and the kernel of the user's.
//
//	home := testenv.Home(t)
//	cmd := exec.Command(testenv.Binary(t), "ls")
//	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+home)
//
// What is missing is made: the program is built, and smolvm setup is run. A test
// never skips.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
)

// EnvBinary names a program that is built already; the Makefile sets it.
const EnvBinary = "SMOLVM_TEST_BIN"

// Binary returns the path of the smolvm program, built from this checkout.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := Build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Build is Binary for a TestMain.
func Build() (string, error) {
	if path := os.Getenv(EnvBinary); path != "" {
		return path, nil
	}
	return build()
}

var build = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("make", "--no-print-directory", "build")
	cmd.Dir = repository()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build smolvm: %w\n%s", err, out)
	}
	return filepath.Join(repository(), "bin", "smolvm"), nil
})

// repository is the checkout's root: this file knows where it stands.
func repository() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Home makes a state directory for one test. Images, kernels and templates are the
// user's own, set up where they are missing; sandboxes and names are the test's. At
// the end of the test nothing may live in it.
func Home(t testing.TB) string {
	t.Helper()
	home, remove, err := NewHome()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		noProcesses(t, home)
		remove()
	})
	return home
}

// NewHome is Home for a TestMain.
func NewHome() (home string, remove func(), err error) {
	shared, err := prepare()
	if err != nil {
		return "", nil, err
	}
	// Beside the user's own, because sandboxes are made of links to templates, which
	// must be on the same file system.
	home, err = os.MkdirTemp(filepath.Dir(shared.Root()), "smolvm-test-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(home) }
	if err := fill(home, shared); err != nil {
		remove()
		return "", nil, err
	}
	return home, remove, nil
}

func fill(home string, shared store.Store) error {
	for _, dir := range []string{shared.Images(), shared.Kernels(), shared.Templates()} {
		if err := os.Symlink(dir, filepath.Join(home, filepath.Base(dir))); err != nil {
			return err
		}
	}
	// Templates are of use only to who has the key that they were made with.
	if _, err := seal.OpenKey(shared.Key()); err != nil {
		return err
	}
	s, err := store.Open(home)
	if err != nil {
		return err
	}
	return os.Link(shared.Key(), s.Key())
}

// OwnTemplates gives a test's state directory templates that nobody else uses, to
// be damaged.
func OwnTemplates(t testing.TB, home string) {
	t.Helper()
	path := filepath.Join(home, "templates")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// prepare sets the user's own state directory up.
var prepare = sync.OnceValues(func() (store.Store, error) {
	s, err := store.Open("")
	if err != nil {
		return s, err
	}
	binary, err := Build()
	if err != nil {
		return s, err
	}
	if out, err := exec.Command(binary, "setup").CombinedOutput(); err != nil {
		return s, fmt.Errorf("smolvm setup: %w\n%s", err, out)
	}
	return s, nil
})

// exitTime is ample for a process that gave its lock back to the kernel to be gone: it
// gives its memory back after that.
const exitTime = 20 * time.Second

// noProcesses fails the test where a process of its state directory still lives,
// and ends it.
func noProcesses(t testing.TB, home string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(exitTime); len(Processes(home)) > 0 && time.Now().Before(deadline); {
		<-tick.C
	}
	for _, p := range Processes(home) {
		t.Errorf("left behind: %s", p)
		if proc, err := os.FindProcess(p.PID); err == nil {
			proc.Kill()
		}
	}
}

// Process is a process that belongs to a state directory.
type Process struct {
	PID  int
	Args []string
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")) }

// Processes lists the processes that name a state directory in their arguments
// or their environment, but this one.
func Processes(home string) []Process {
	var list []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		var pid int
		fmt.Sscan(filepath.Base(dir), &pid)
		args, _ := os.ReadFile(dir + "/cmdline")
		env, _ := os.ReadFile(dir + "/environ")
		if pid == os.Getpid() || len(args) == 0 {
			continue // this process, a zombie or a kernel thread
		}
		if strings.Contains(string(args)+"\x00"+string(env), home) {
			list = append(list, Process{pid, strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")})
		}
	}
	return list
}

// fixed are the entries that every state directory has, or may have for good.
var fixed = []string{
	".", "version", "key", "sandboxes", "names", "names/.lock", "snapshots", "pools", "pools/keeper.lock", "tmp",
	"api.lock", "api-keys.json", "api-keys.json.lock", "gateway.log",
}

// Files lists everything below a state directory that belongs to sandboxes: all
// but images, kernels, templates, and the fixed directories and locks.
func Files(home string) []string {
	var list []string
	filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(home, path)
		switch {
		case err != nil:
			return nil
		case rel == "images" || rel == "kernels" || rel == "templates":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case slices.Contains(fixed, rel):
			return nil
		}
		list = append(list, rel)
		return nil
	})
	return list
}
