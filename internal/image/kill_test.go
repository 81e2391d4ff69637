package image

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/store"
)

// Variables that turn the test binary into the process that TestPullKilled kills.
const (
	envKillHome = "TEST_KILL_HOME"
	envKillRef  = "TEST_KILL_REF"
	envKillAt   = "TEST_KILL_AT"
)

// TestPullKilledHelper pulls, and stands still at its n-th report of progress.
func TestPullKilledHelper(t *testing.T) {
	home := os.Getenv(envKillHome)
	if home == "" {
		return // only a part of TestPullKilled
	}
	s, err := store.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(os.Getenv(envKillAt))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{}, at)
	_, err = im.Pull(t.Context(), os.Getenv(envKillRef), PullOptions{Progress: func(Progress) {
		select {
		case seen <- struct{}{}:
		default:
			fmt.Println("KILL ME")
			select {}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("DONE")
}

// TestPullKilled kills the process that pulls, without warning, at each of its
// steps. After a clean-up the store is as before, and a pull works.
func TestPullKilled(t *testing.T) {
	r := newReg(t)
	ref := r.push(t, "app", testImage(t, host(), makeTar("a", strings.Repeat("1", 5000)), makeTar("b", "2")))
	im := open(t)
	for at := 0; ; at++ {
		if killAt(t, im, ref, at) {
			break
		}
		if _, err := im.GC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if left := files(t, im); len(left) != 0 {
			t.Errorf("killed at step %d, left: %v", at, left)
		}
	}
	if i, err := im.Pull(t.Context(), ref, PullOptions{HTTP: http.DefaultTransport}); err != nil || cat(t, i, "/b") != "2" {
		t.Errorf("after all kills: %v", err)
	}
}

// killAt runs the helper and kills it where it stands still. It reports whether
// the helper came to its end instead.
func killAt(t *testing.T, im *Images, ref string, at int) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPullKilledHelper$")
	cmd.Env = append(os.Environ(), envKillHome+"="+im.s.Root(), envKillRef+"="+ref, envKillAt+"="+strconv.Itoa(at))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch lines.Text() {
		case "KILL ME":
			return false
		case "DONE":
			return true
		}
	}
	t.Fatalf("the helper ended before step %d", at)
	return true
}
