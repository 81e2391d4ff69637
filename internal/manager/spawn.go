package manager

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
)

// EnvBinary names the smolvm program for clients that are not it.
const EnvBinary = "SMOLVM_BIN"

// program finds the smolvm program that runs supervisors.
func (m *Manager) program() (string, error) {
	self, err := os.Executable()
	if err != nil {
		self = ""
	}
	// What was named is meant: another program must not quietly take its place.
	for _, path := range []string{m.opts.Binary, os.Getenv(EnvBinary)} {
		if path == "" {
			continue
		}
		if !executable(path) {
			return "", api.Errorf(api.Unavailable, "find the smolvm program: %q is no program", path).
				WithCode("missing_dependency").WithRecovery("Set %s, or the client's Binary, to its path.", EnvBinary)
		}
		return filepath.Abs(path)
	}
	if path := filepath.Join(filepath.Dir(self), "smolvm"); executable(path) {
		return path, nil
	}
	path, err := exec.LookPath("smolvm")
	if err != nil {
		return "", api.Errorf(api.Unavailable, "find the smolvm program: %w", err).
			WithCode("missing_dependency").WithRecovery("Install it, or set %s to its path.", EnvBinary)
	}
	return filepath.Abs(path)
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// child is a supervisor that was started.
type child struct {
	cmd      *exec.Cmd
	birth    *os.File // it says there how it comes up
	lifeline *os.File // its standard input: open as long as this client lives
	ended    chan struct{}
}

// launch starts a supervisor. The request, where not nil, is the line that it reads
// first.
func (m *Manager) launch(request any, args ...string) (*child, error) {
	program, err := m.program()
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inR.Close() // with a reader here a write would not notice that the supervisor died
	u.Add(func() { inW.Close() })
	birthR, birthW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer birthW.Close()
	u.Add(func() { birthR.Close() })
	cmd := exec.Command(program, append([]string{"supervise"}, args...)...)
	cmd.Env = superviseEnv(m.store, os.Environ())
	cmd.Dir = "/" // hold nobody's directory
	cmd.Stdin, cmd.ExtraFiles = inR, []*os.File{birthW}
	// Its own session: an interrupt at the client's terminal is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, api.Errorf(api.Internal, "start supervisor: %w", err)
	}
	c := &child{cmd: cmd, birth: birthR, lifeline: inW, ended: make(chan struct{})}
	go func() { // ends with the supervisor; nothing else reaps it
		cmd.Wait()
		// This also keeps the lifeline from the garbage collector, which would close
		// it for a caller that has dropped the sandbox but uses it.
		inW.Close()
		close(c.ended)
	}()
	if request != nil {
		inR.Close()
		// What goes wrong here the birth tells better.
		json.NewEncoder(inW).Encode(request)
	}
	u.Success()
	return c, nil
}

// spawn starts a supervisor and waits for the end of its birth. The lifeline
// tells the supervisor that this client lives, until it is closed.
func (m *Manager) spawn(ctx context.Context, request any, args ...string) (control.Birth, io.Closer, error) {
	c, err := m.launch(request, args...)
	if err != nil {
		return control.Birth{}, nil, err
	}
	defer c.birth.Close()
	attended := make(chan struct{})
	defer close(attended)
	// A cancelled caller cuts the lifeline: the supervisor then undoes its work
	// and ends the birth. One that cannot even do that is killed.
	stop := context.AfterFunc(ctx, func() {
		c.lifeline.Close()
		select {
		case <-attended:
		case <-time.After(undo.CleanupTime):
			c.cmd.Process.Kill()
		}
	})
	born, err := m.attend(bufio.NewReader(c.birth))
	if !stop() && err == nil && args[0] == "create" {
		err = m.takeBack(ctx, born.Sandbox.ID) // it came up, but nobody wants it any more
	}
	if err != nil {
		c.lifeline.Close()
		return control.Birth{}, nil, m.explainBirth(ctx, args[0], err)
	}
	return born, c.lifeline, nil
}

// spawnMember starts a member of a pool and waits until it waits. What it returns
// is closed when the member has been taken or has ended.
func (m *Manager) spawnMember(ctx context.Context, create control.Create) (control.Birth, <-chan struct{}, io.Closer, error) {
	c, err := m.launch(create, "member")
	if err != nil {
		return control.Birth{}, nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.lifeline.Close() })
	r := bufio.NewReader(c.birth)
	born, err := m.attend(r)
	stop()
	if err != nil {
		c.lifeline.Close()
		c.birth.Close()
		return control.Birth{}, nil, nil, m.explainBirth(ctx, "pool", err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, r)
		c.birth.Close()
	}()
	return born, gone, c.lifeline, nil
}

// takeBack removes a sandbox whose maker gave up while it came up.
func (m *Manager) takeBack(ctx context.Context, id string) error {
	clean, cancel := undo.Context(ctx)
	defer cancel()
	return errors.Join(context.Cause(ctx), (&Handle{m: m, id: id}).Remove(clean))
}

// explainBirth says why the act create or start failed.
func (m *Manager) explainBirth(ctx context.Context, act string, err error) error {
	died := errors.Is(err, io.EOF)
	if died {
		m.GC(ctx, false)
	}
	switch {
	case ctx.Err() != nil:
		return api.Errorf(contextClass(ctx), "%s sandbox: %w", act, context.Cause(ctx))
	case died:
		return api.Errorf(api.Internal, "%s sandbox: its supervisor died", act).
			WithRecovery("Look into the kernel's log for an out-of-memory kill, and try again.")
	}
	return err
}

func contextClass(ctx context.Context) api.Class {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return api.Timeout
	}
	return api.Unavailable
}

// attend listens to a birth until its end. io.EOF: the supervisor died.
func (m *Manager) attend(r io.Reader) (control.Birth, error) {
	dec := json.NewDecoder(r)
	for {
		var b control.Birth
		if err := dec.Decode(&b); err != nil {
			return control.Birth{}, io.EOF
		}
		switch {
		case b.Progress != nil:
			m.opts.Progress(b.Progress.Step, b.Progress.Done, b.Progress.Total)
		case b.Error != nil:
			return control.Birth{}, b.Error
		case b.Sandbox != nil, b.Template != nil, b.Done:
			return b, nil
		}
	}
}

// superviseEnv is the environment of a supervisor: what it needs to find its
// files, its tools and registries, and none of the client's secrets.
func superviseEnv(s store.Store, env []string) []string {
	keep := []string{"PATH", "HOME", "TMPDIR", "LANG", "DOCKER_CONFIG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
		"http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
		"SMOLVM_AGENT", "SMOLVM_BASE_IMAGE"} // named one by one: a later variable may hold a key
	out := []string{store.EnvHome + "=" + s.Root()}
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		if slices.Contains(keep, k) {
			out = append(out, kv)
		}
	}
	return out
}
