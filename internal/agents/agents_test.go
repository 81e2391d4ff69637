package agents

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestPresetsAreWhole(t *testing.T) {
	for _, p := range all() {
		r := Recipe{Preset: p, Base: "sha256:00"}
		if err := r.Check(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if p.programs[p.Name] == "" || len(p.Keys) == 0 || p.Title == "" {
			t.Errorf("%s lacks its program, its keys or its title", p.Name)
		}
		for _, word := range append(r.arguments(), r.fill(p.programs[p.Name])) {
			if strings.Contains(word, "{") {
				t.Errorf("%s: %s is not filled in", p.Name, word)
			}
		}
		for _, k := range p.Keys {
			if err := (api.Secret{Name: k.Name, Hosts: k.Hosts, Value: "x"}).Check(); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
	}
	if _, err := Find("nobody"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an unknown agent: %v", err)
	}
}

func TestFilesHoldPlaceholdersOfTheAgentsKeysAlone(t *testing.T) {
	s := Start{Project: `/srv/a "b"`, Keys: map[string]string{
		"ANTHROPIC_API_KEY": "smolvm_secret_0123456789abcdefghij", "OPENAI_API_KEY": "smolvm_secret_openai", "OTHER": "smolvm_secret_other",
	}}
	want := map[string]string{"claude": `"0123456789abcdefghij"`, "codex": `"smolvm_secret_openai"`}
	for _, p := range all() {
		text := ""
		for _, f := range p.Files(s) {
			if filepath.IsAbs(f.Path) || strings.Contains(f.Path, "..") {
				t.Errorf("%s writes %s", p.Name, f.Path)
			}
			if strings.HasSuffix(f.Path, ".json") && !json.Valid([]byte(f.Content)) {
				t.Errorf("%s: %s is no JSON: %s", p.Name, f.Path, f.Content)
			}
			text += f.Content
		}
		if strings.Contains(text, "other") || !strings.Contains(text, want[p.Name]) {
			t.Errorf("%s: %s", p.Name, text)
		}
	}
	for _, p := range []Preset{claude(), codex()} {
		for _, f := range p.Files(Start{Project: "/srv"}) {
			if strings.Contains(f.Content, "smolvm_secret") {
				t.Errorf("%s without a key: %s", p.Name, f.Content)
			}
		}
	}
}

func TestImageIsNamedByAllThatGoesIntoIt(t *testing.T) {
	r := Recipe{Preset: claude(), Base: "sha256:00"}
	names := []string{r.Image()}
	for _, other := range []Recipe{
		{Preset: claude(), Base: "sha256:01"},
		{Preset: claude(), Base: "sha256:00", Version: "2.1.300"},
		{Preset: codex(), Base: "sha256:00"},
	} {
		names = append(names, other.Image())
	}
	if slices.Sort(names); len(slices.Compact(names)) != 4 || r.Image() != (Recipe{Preset: claude(), Base: "sha256:00"}).Image() {
		t.Errorf("%q", names)
	}
	if !strings.HasPrefix(r.Image(), "agent-claude:"+claude().Version+"-") {
		t.Error(r.Image())
	}
}

func TestVersionsAreExact(t *testing.T) {
	for version, ok := range map[string]bool{
		"1.2.3": true, "1.2.3-beta.1": true,
		"latest": false, "1.2": false, "^1.2.3": false, "--registry=x": false, "file:/etc": false, "1.2.3 evil": false, "../x": false,
	} {
		err := Recipe{Preset: claude(), Version: version}.Check()
		if ok != (err == nil) || err != nil && !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// TestWrite has a stand-in for npm make what a package holds, or nothing.
func TestWrite(t *testing.T) {
	r := Recipe{Preset: claude()}
	program := r.fill(r.Preset.programs["claude"])
	npm := t.TempDir()
	t.Setenv("PATH", npm+":"+os.Getenv("PATH"))
	for _, test := range []struct{ script, problem string }{
		{"mkdir -p node_modules/" + filepath.Dir(program) + " && echo \"$@\" > node_modules/" + program, ""},
		{"true", "holds no"},
		{"echo no such version >&2; exit 1", "fetch claude"},
	} {
		if err := os.WriteFile(filepath.Join(npm, "npm"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		err := r.Write(t.Context(), dir)
		if test.problem != "" {
			if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%s: %v", test.script, err)
			}
			continue
		}
		b, read := os.ReadFile(filepath.Join(dir, "node_modules", program))
		if err != nil || read != nil || !strings.Contains(string(b), "--ignore-scripts") {
			t.Errorf("%v, %v: %s", err, read, b)
		}
		if to, err := os.Readlink(filepath.Join(dir, "bin", "claude")); err != nil || to != folder+"/"+program {
			t.Errorf("%s, %v", to, err)
		}
	}
	t.Setenv("PATH", "/nowhere")
	if err := r.Write(t.Context(), t.TempDir()); api.AsError(err).Code != "missing_dependency" {
		t.Errorf("without npm: %v", err)
	}
}
