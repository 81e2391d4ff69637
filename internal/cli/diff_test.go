package cli

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
)

var someChanges = []smolvm.Change{
	{Path: "/etc", What: "changed", Type: "dir"},
	{Path: "/etc/" + hostile, What: "added", Type: "file", Size: 5, Patch: "--- /dev/null\n+++ b/etc/x\n@@ -0,0 +1,2 @@\n+a\x1b[2J\n+b\n"},
	{Path: "/etc/old", What: "deleted", Type: "file", Patch: "--- a/etc/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"},
	{Path: "/usr/bin/tool", What: "changed", Type: "file", Size: 2048, Binary: true},
	{Path: "/lib", What: "odd\x1b", Type: "symlink"},
}

func TestDiffOutput(t *testing.T) {
	for name, p := range map[string]diffPrinter{
		"list":     {},
		"coloured": {term: true, colour: true},
		"patch":    {patch: true, term: true, colour: true},
		"plain":    {patch: true, term: true},
		"piped":    {patch: true},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			p.printer(someChanges)(&b)
			out := b.String()
			for _, c := range []string{red, green, amber, cyan, bold, plain} {
				if !p.colour && strings.Contains(out, c) {
					t.Errorf("colour without a terminal that wants it: %q", out)
				}
				out = strings.ReplaceAll(out, c, "")
			}
			raw := p.patch && !p.term // what is applied must be as it was
			if strings.Contains(out, "\x1b") != raw {
				t.Errorf("escapes of a guest: %q", out)
			}
			golden(t, filepath.Join("testdata", "diff-"+name+".txt"), []byte(b.String()))
		})
	}
}

func TestDiffSteps(t *testing.T) {
	three, five := 3, 5
	for _, tt := range []struct {
		words    string
		from, to *int
	}{
		{"", nil, nil}, {"3", &three, nil}, {"3 5", &three, &five}, {"image 5", nil, &five}, {"3 now", &three, nil}, {"image now", nil, nil},
	} {
		var o diffOptions
		err := o.steps(strings.Fields(tt.words))
		if err != nil || !reflect.DeepEqual(o.From, tt.from) || !reflect.DeepEqual(o.To, tt.to) {
			t.Errorf("%q: %v to %v, %v", tt.words, o.From, o.To, err)
		}
	}
	for _, words := range []string{"x", "3 x", "now", "3 image", "-1", "1.5", "99999999999999999999"} {
		var o diffOptions
		if err := o.steps(strings.Fields(words)); err == nil {
			t.Errorf("%q: accepted as %v to %v", words, o.From, o.To)
		}
	}
}

func TestExportWithoutFile(t *testing.T) {
	for args, want := range map[string]string{
		"diff web --export":                 "diff web --export=-",
		"--json diff --export --format tar": "--json diff --export=- --format tar",
		"diff web --export -p":              "diff web --export=- -p",
		"diff web --export -":               "diff web --export -",
		"diff web --export x.tar 3":         "diff web --export x.tar 3",
		"diff web --export=x.tar":           "diff web --export=x.tar",
		"exec diff --export":                "exec diff --export",
		"run -- diff --export":              "run -- diff --export",
		"":                                  "",
	} {
		if got := strings.Join(withExportFile(strings.Fields(args)), " "); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

func TestExportForm(t *testing.T) {
	here, repo := t.TempDir(), t.TempDir()
	sub := filepath.Join(repo, "a", "b")
	if err := errors.Join(os.MkdirAll(sub, 0o755), os.WriteFile(filepath.Join(repo, ".git"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir, file, format string
		want              smolvm.DiffFormat
	}{
		{here, "-", "", smolvm.DiffTar},
		{here, "x", "", smolvm.DiffTar},
		{here, "x.patch", "", smolvm.DiffPatch},
		{here, "x.diff", "", smolvm.DiffPatch},
		{here, "x.tar", "patch", smolvm.DiffPatch},
		{sub, "-", "", smolvm.DiffPatch},
		{sub, "x", "", smolvm.DiffPatch},
		{sub, "x.tar", "", smolvm.DiffTar},
		{sub, "-", "tar", smolvm.DiffTar},
	} {
		t.Chdir(tt.dir)
		o := diffOptions{export: tt.file, format: tt.format}
		if got, err := o.form(); err != nil || got != tt.want {
			t.Errorf("%+v: %s, %v", tt, got, err)
		}
	}
}
