package world

import (
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// GitFile is a file in the repository, and GitText what is in it.
const (
	GitFile = "hello.txt"
	GitText = "hello from git\n"
)

// repository serves demo.git by git's own program.
func (w *World) repository(t testing.TB) http.Handler {
	t.Helper()
	work, bare := filepath.Join(w.dir, "work"), filepath.Join(w.dir, "git", "demo.git")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, GitFile), []byte(GitText), 0o644); err != nil {
		t.Fatal(err)
	}
	w.git(t, "-C", work, "init", "-q", "-b", "main")
	w.git(t, "-C", work, "add", ".")
	w.git(t, "-C", work, "commit", "-q", "-m", "first")
	w.git(t, "clone", "-q", "--bare", work, bare)
	w.git(t, "-C", bare, "config", "http.receivepack", "true")
	return &cgi.Handler{
		Path:   filepath.Join(w.git(t, "--exec-path"), "git-http-backend"),
		Env:    append(gitEnv(), "GIT_HTTP_EXPORT_ALL=1", "GIT_PROJECT_ROOT="+filepath.Dir(bare)),
		Logger: quiet(), Stderr: t.Output(),
	}
}

// gitEnv keeps the user's own settings out.
func gitEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=World", "GIT_AUTHOR_EMAIL=world@" + Zone,
		"GIT_COMMITTER_NAME=World", "GIT_COMMITTER_EMAIL=world@" + Zone,
	}
}

func (w *World) git(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, exec.Command("git", args...), gitEnv())
}

// run runs a program that a site is made with and returns what it printed.
func run(t testing.TB, cmd *exec.Cmd, env []string) string {
	t.Helper()
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// GitHead returns the commit that a branch of the repository stands at.
func (w *World) GitHead(t testing.TB, branch string) string {
	t.Helper()
	return w.git(t, "-C", filepath.Join(w.dir, "git", "demo.git"), "rev-parse", branch)
}
