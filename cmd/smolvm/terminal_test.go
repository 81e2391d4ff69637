package main

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/smolvm/smolvm/internal/testenv"
)

// session is smolvm on a terminal, as a person sees it.
type session struct {
	t    *testing.T
	cmd  *exec.Cmd
	term *os.File

	mu  sync.Mutex
	out strings.Builder
}

func newSession(t *testing.T, env []string, args ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command(args[0], args[1:]...)}
	s.cmd.Env = env
	var err error
	s.term, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 40, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(s, s.term) })
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.term.Close()
		wg.Wait()
	})
	return s
}

func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *session) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// until calls again, if there is one, until the terminal shows what is wanted.
func (s *session) until(want string, again func()) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if strings.Contains(s.text(), want) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the terminal never showed %q:\n%s", want, s.text())
		}
		if again != nil {
			again()
		}
	}
}

func (s *session) keys(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.term, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) exits(want int) {
	s.t.Helper()
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != want {
		s.t.Errorf("exit status %d, want %d:\n%s", got, want, s.text())
	}
}

func TestVMTerminal(t *testing.T) {
	smolvm := testenv.Binary(t)
	env := append(os.Environ(), "SMOLVM_HOME="+testenv.Home(t))
	run := func(args ...string) {
		cmd := exec.Command(smolvm, args...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("smolvm %q: %v\n%s", args, err, out)
		}
	}
	run("create", "--name", "term", "--memory", "256")
	t.Cleanup(func() { run("rm", "--force", "term") })

	t.Run("size", func(t *testing.T) {
		s := newSession(t, env, smolvm, "exec", "-it", "term", "--", "sh", "-c", "stty size; while read x; do stty size; done; exit 5")
		s.until("40 100", nil)
		if err := pty.Setsize(s.term, &pty.Winsize{Rows: 50, Cols: 120}); err != nil {
			t.Fatal(err)
		}
		s.until("50 120", func() { s.keys("\n") })
		s.keys("\x04") // end of input, made by the guest's terminal
		s.exits(5)
	})
	t.Run("interrupt", func(t *testing.T) {
		s := newSession(t, env, smolvm, "exec", "-it", "term", "--", "sh", "-c",
			"trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 1; done")
		s.until("ready", nil)
		s.keys("\x03") // it is for the guest, not for smolvm
		s.until("caught", nil)
		s.exits(6)
	})
	t.Run("shell", func(t *testing.T) {
		s := newSession(t, env, smolvm, "shell", "-u", "agent", "term")
		s.until("$ ", nil)
		s.keys("echo $((6 * 7)) $(id -un); exit 7\n")
		s.until("42 agent", nil)
		s.exits(7)
	})
}
