package qemu

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
)

// TestVMProcess looks at QEMU from the host, and then lets its guest flood the
// console.
func TestVMProcess(t *testing.T) {
	kernel, initrd := guest(t)
	t.Setenv("SECRET_OF_THE_HOST", "x")
	m, err := new(Driver).Start(t.Context(), config(t, kernel, initrd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	t.Run("closed surroundings", func(t *testing.T) { surroundings(t, m.Info().PID) })
	t.Run("bounded console", func(t *testing.T) { flood(t, m) })
}

func surroundings(t *testing.T, pid int) {
	proc := func(name string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// The C library cuts its own variable into pieces, in place.
	if env := strings.ReplaceAll(proc("environ"), "\x00", ":"); env != mallocTunables+":" {
		t.Errorf("environment %q", env)
	}
	if adj := strings.TrimSpace(proc("oom_score_adj")); adj != fmt.Sprint(oomScoreAdj) {
		t.Errorf("oom_score_adj %s", adj)
	}
	status := proc("status")
	for _, want := range []string{"\nSeccomp:\t2\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in its status:\n%s", want, status)
		}
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); dir != "/" {
		t.Errorf("working directory %q, %v", dir, err)
	}
	if group, err := syscall.Getpgid(pid); group != pid {
		t.Errorf("process group %d of process %d, %v", group, pid, err)
	}
}

func flood(t *testing.T, m vmm.Machine) {
	c, err := m.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	fmt.Fprintln(c, "!flood 600")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "flooded\n" {
		t.Fatalf("%q, %v", line, err)
	}
	var size int64
	for _, path := range []string{m.Info().Console, m.Info().Console + ".1"} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	if size > consoleMax || size < consoleMax/2 {
		t.Errorf("%d bytes are kept", size)
	}
	if words := m.LastWords(); !strings.Contains(words, "flood end") || len(words) > 2*tailMax+100 {
		t.Errorf("last words %q", words)
	}
}
