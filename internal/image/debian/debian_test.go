package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
)

func TestParseTargets(t *testing.T) {
	const base = "http://mirror.example/debian/"
	got := parseTargets("Debian|" + base + "|bookworm|main\nDebian|" + base + "|bookworm|contrib\nDebian|" + base +
		"|trixie|main\nDocker|http://other.example|bookworm|main\nDebian|" + base + "|bookworm-security|main\nbroken\n\n")
	want := fmt.Sprint([]string{"deb " + base + " bookworm main", "deb " + base + " bookworm-security main"})
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

func TestLines(t *testing.T) {
	var seen []string
	l := &lines{report: func(p progress.Progress) { seen = append(seen, p.Line) }}
	fmt.Fprint(l, "I: one\nnoi")
	fmt.Fprint(l, "se\nI: running --customize-hook in shell: sh -c 'x\nI: two\n", strings.Repeat("x", 10_000))
	for i := range 20 {
		fmt.Fprintf(l, "\nE: %d\n", i)
	}
	if fmt.Sprint(seen) != "[one two]" {
		t.Errorf("reported %v", seen)
	}
	if n := len(strings.Split(l.tail(), "\n")); n != keptLines {
		t.Errorf("%d lines are kept, not %d", n, keptLines)
	}
}

func TestWithoutTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Build(t.Context(), Options{Tar: filepath.Join(t.TempDir(), "x.tar"), Dir: t.TempDir()})
	if e := api.AsError(err); e.Code != "missing_dependency" || e.Recovery == "" {
		t.Errorf("%+v", e)
	}
}

// TestBuildCancelled ends a real build in its middle.
func TestBuildCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	tar := filepath.Join(dir, "x.tar")
	err := Build(ctx, Options{Tar: tar, Dir: dir, Progress: func(p progress.Progress) {
		if strings.HasPrefix(p.Line, "extracting") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v; want cancelled", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts were left below %s: %v", dir, err)
	}
	if _, err := os.Lstat(tar); err == nil {
		t.Error("a part of the tar was left")
	}
	// What else is in the directory its owner removes; that must be possible.
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
