package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/testenv"
)

// commandsRE finds what a page tells its reader to run.
var commandsRE = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestVMGuides runs the commands of README and of the guides as they are printed.
func TestVMGuides(t *testing.T) {
	pages, err := filepath.Glob("../../docs/guides/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("found no guides: %v", err)
	}
	binary := testenv.Binary(t)
	for _, page := range append(pages, "../../README.md") {
		t.Run(filepath.Base(page), func(t *testing.T) { runPage(t, binary, page) })
	}
}

func runPage(t *testing.T, binary, page string) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	script := "set -ex\n"
	for _, block := range commandsRE.FindAllStringSubmatch(string(text), -1) {
		script += block[1]
	}
	if !strings.Contains(script, "smolvm ") {
		t.Fatal("it has no commands")
	}
	home := testenv.Home(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+home, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("its commands: %v", err)
	}
	// A page leaves nothing behind that it has made.
	if left := lasting(home); left != "" {
		t.Errorf("left behind:%s", left)
	}
}
