// Package supervisor is the life of one sandbox. A supervisor is a process: the
// smolvm program executed again with its hidden command. It makes the sandbox or
// takes an existing one up, owns the VMM, the guest channel and the timers,
// serves the sandbox's API on a socket in its directory, and ends with the VM.
//
// # How one is started
//
//	smolvm supervise create     reads one line, a control.Create, from standard input
//	smolvm supervise start ID   takes up a sandbox that is stopped, hibernated or in error
//
// Two errands need a supervisor's parts, but leave no sandbox running: they end
// with the birth.
//
//	smolvm supervise template   reads a control.Create, makes its template
//	smolvm supervise point ID   reads a control.Point, saves a sandbox without a VM
//
// A member of a pool comes up as a sandbox does, without a name, and waits:
//
//	smolvm supervise member     reads a control.Create; its client is the pool's keeper
//
// Descriptor 3 is a pipe to which it writes control.Birth lines until the
// sandbox runs or could not be made. Standard input stays open for as long as
// the client lives: if it ends before the sandbox runs, everything is undone;
// the end of the client of an ephemeral sandbox ends and removes the sandbox. A
// member's birth stays open until the member is taken, and its keeper's end ends it.
package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/secret"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Provider gives a sandbox what it is made of.
type Provider interface {
	// Image finds an image, and fetches it where it is not here yet.
	Image(ctx context.Context, ref string, progress func(control.Progress)) (control.Image, error)
	// Kernel returns the paths of the guest's kernel and initramfs.
	Kernel(ctx context.Context) (kernel, initrd string, err error)
	// Disk makes an empty writable layer.
	Disk(ctx context.Context, path string, mib int) error
	// Overlay makes an empty qcow2 file to stand above others of a disk.
	Overlay(path string, mib int) error
}

// Parts is what a supervisor is wired with.
type Parts struct {
	Store    store.Store
	Driver   vmm.Driver
	Provider Provider
}

// birthFD is the descriptor of the pipe for control.Birth lines.
const birthFD = 3

// maxSpec bounds the line that carries the spec; the environment in it may be
// api.MaxEnvBytes, and JSON may write each byte as six.
const maxSpec = 8 << 20

// Main is the supervisor's process. It returns the exit status.
func Main(parts Parts, args []string) int {
	// A terminal's interrupt is for the client. SIGTERM stops the sandbox.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	unix.CloseOnExec(birthFD) // nobody else may hold the birth open

	if err := noCoreDump(); err != nil {
		slog.Warn("forbid core dumps", "err", err)
	}
	in := bufio.NewReader(os.Stdin)
	birth := &birth{w: os.NewFile(birthFD, "birth")}
	s, err := newSupervisor(parts, in, args)
	if err != nil {
		birth.fail(err)
		return 1
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	lifeline := make(chan struct{})
	s.client = lifeline
	go func() {
		io.Copy(io.Discard, in) // ends with the client
		close(lifeline)
		birth.lost(cancel)
	}()
	told := make(chan struct{})
	go func() { // until live listens to it
		defer close(told)
		select {
		case sig := <-term:
			cancel(api.Errorf(api.Unavailable, "the supervisor was told to end"))
			select { // for live, where begin was over already
			case term <- sig:
			default: // there is another
			}
		case <-ctx.Done():
		}
	}()
	if s.errand != nil {
		born, err := s.errand(ctx, birth)
		if err != nil {
			birth.fail(err)
			return 1
		}
		birth.done(born)
		return 0
	}
	if err := s.begin(ctx, birth); err != nil {
		birth.fail(err)
		return 1
	}
	ready := birth.ready
	if s.member != nil {
		ready = birth.pooled
	}
	if !ready(s.describe()) {
		s.abandon() // the client died before it could know
		return 1
	}
	cancel(nil)
	<-told
	s.live(term)
	return 0
}

func newSupervisor(parts Parts, in *bufio.Reader, args []string) (*Supervisor, error) {
	key, err := seal.OpenKey(parts.Store.Key())
	if err != nil {
		return nil, err
	}
	s := &Supervisor{parts: parts, key: key, secrets: secret.NewVault(key[:])}
	switch {
	case len(args) == 1 && (args[0] == "create" || args[0] == "template" || args[0] == "member"):
		s.create = new(control.Create)
		if err := readRequest(in, s.create); err != nil {
			return nil, err
		}
		if err := s.takeSecrets(&s.create.Spec); err != nil {
			return nil, err
		}
		switch args[0] {
		case "template":
			s.errand = s.makeTemplate
		case "member":
			s.member = new(member)
		}
		return s, nil
	case len(args) == 2 && args[0] == "start":
		s.dir = parts.Store.Sandbox(args[1])
		return s, nil
	case len(args) == 2 && args[0] == "point":
		s.dir = parts.Store.Sandbox(args[1])
		var p control.Point
		if err := readRequest(in, &p); err != nil {
			return nil, err
		}
		s.errand = func(context.Context, *birth) (control.Birth, error) {
			return control.Birth{Done: true}, s.pointStopped(p)
		}
		return s, nil
	}
	return nil, api.Errorf(api.Invalid, "supervise %q: no such errand", args)
}

// readRequest reads the line that says what to do.
func readRequest(in *bufio.Reader, v any) error {
	line, err := readLine(in)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return api.Errorf(api.Invalid, "read request: %w", err)
	}
	return nil
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for len(line) <= maxSpec {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, api.Errorf(api.Invalid, "read spec: %w", err)
		}
	}
	return nil, api.Errorf(api.Exhausted, "read spec: longer than %d bytes", maxSpec)
}
