package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/agents"
)

// parseAgent returns what flags of agent claude come to.
func parseAgent(t *testing.T, args ...string) (smolvm.Spec, *agentOptions, error) {
	t.Helper()
	p, err := agents.Find("claude")
	if err != nil {
		t.Fatal(err)
	}
	var o agentOptions
	cmd := testApp().newAgent()
	cmd.ResetFlags()
	o.register(testApp(), cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	s, err := o.prepare(p)
	return s, &o, err
}

// inProject makes a folder with a home of its own beside it, and goes there.
func inProject(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Setenv("ANTHROPIC_API_KEY", "sk-real")
	t.Setenv("CLAUDE_CODE_OAUTH_TOKEN", "")
	project := filepath.Join(dir, "project")
	for _, d := range []string{project, filepath.Join(dir, "home")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(project)
	return project
}

func TestAgentFlags(t *testing.T) {
	project := inProject(t)
	s, o, err := parseAgent(t)
	if err != nil || !s.Ephemeral || s.MemoryMiB != agents.MemoryMiB || s.CPUs != agents.CPUs || len(s.Mounts) != 0 || o.project != project {
		t.Errorf("%+v, %v", s, err)
	}
	if len(s.Secrets) != 1 || s.Secrets[0].Value != "sk-real" || !slices.Equal(s.Secrets[0].Hosts, []string{"api.anthropic.com"}) {
		t.Errorf("secrets %+v", s.Secrets)
	}
	p := s.Network.Policy
	if p == nil || p.Default != api.PolicyDeny || len(p.Rules) != 1 || !slices.Equal(p.Rules[0].Domains, []string{"api.anthropic.com"}) {
		t.Errorf("policy %+v", p)
	}
	s, _, err = parseAgent(t, "--rw", "--keep", "--deny", "a.example", "--memory", "1G")
	want := api.Mount{Host: project, Writable: true}
	if err != nil || s.Ephemeral || !slices.Equal(s.Mounts, []api.Mount{want}) || s.MemoryMiB != 1024 {
		t.Errorf("%+v, %v", s, err)
	}
	if p := s.Network.Policy; p.Default != api.PolicyDeny || len(p.Rules) != 2 || p.Rules[0].Action != api.PolicyDeny {
		t.Errorf("with --deny: %+v", p)
	}
	if s, _, err = parseAgent(t, "--network", "open"); err != nil || s.Network.Policy != nil {
		t.Errorf("open: %+v, %v", s.Network, err)
	}
}

func TestAgentKeyFromFile(t *testing.T) {
	project := inProject(t)
	t.Setenv("ANTHROPIC_API_KEY", "")
	if _, _, err := parseAgent(t); !errors.Is(err, api.ErrInvalid) || api.AsError(err).Recovery == "" {
		t.Errorf("without a key: %v", err)
	}
	file := filepath.Join(project, "key")
	if err := os.WriteFile(file, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, o, err := parseAgent(t, "--secret-file", "CLAUDE_CODE_OAUTH_TOKEN="+file)
	if err != nil || len(s.Secrets) != 1 || s.Secrets[0].Value != "from file" || !slices.Equal(o.keys, []string{"CLAUDE_CODE_OAUTH_TOKEN"}) {
		t.Errorf("%+v, %v", s.Secrets, err)
	}
}

func TestAgentRefuses(t *testing.T) {
	project := inProject(t)
	for _, args := range [][]string{
		{"--project", "/"},
		{"--project", os.Getenv("HOME")},
		{"--project", filepath.Dir(project)}, // holds the home
		{"--project", filepath.Join(project, "missing")},
		{"--agent-version", "latest"},
		{"--agent-version", "1.2.3", "--image", "mine"},
		{"--from-snapshot", "x"},
	} {
		if _, _, err := parseAgent(t, args...); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestApplyPatch applies a patch in a folder of a larger work tree, where git by itself
// would leave everything out, and refuses what leads out of the folder.
func TestApplyPatch(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "part")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("git", "init", "-q", top).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Symlink(top, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	patch := func(name string) string {
		file := filepath.Join(t.TempDir(), "p")
		text := "diff --git a/" + name + " b/" + name + "\nnew file mode 100644\n--- /dev/null\n+++ b/" + name + "\n@@ -0,0 +1 @@\n+hi\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if err := applyPatch(t.Context(), dir, patch("new.txt")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "new.txt")); err != nil || string(b) != "hi\n" {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"../evil", "out/evil", ".git/hooks/evil"} {
		if err := applyPatch(t.Context(), dir, patch(name)); !errors.Is(err, api.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(top, "evil")); err == nil {
		t.Error("a file was written outside of the folder")
	}
}
