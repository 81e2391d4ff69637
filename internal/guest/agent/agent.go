// Package agent is the guest's side of the guest protocol: it runs processes,
// moves files and ends the guest, for a host that asks over one byte stream.
//
//	err := agent.Serve(ctx, port, agent.Options{Version: version})
//
// In a guest it is part of process 1 (see package boot). It runs as well as an
// ordinary process of an ordinary user; the tests do that.
//
// # What Setup makes new
//
// In this order, while the guest's processes stand still:
//
//   - the clock of the day. The clock of uptime goes on where it was.
//   - the kernel's random pool. Programs that keep random state of their own are
//     not told, but by hooks.
//   - host name, /etc/hostname, /etc/hosts, /etc/machine-id, and
//     /var/lib/dbus/machine-id where that is a file
//   - in copies, the boot id as /proc/sys shows it. A /proc that a container
//     mounts shows the kernel's.
//   - in copies, SSH host keys where there are any, by the image's ssh-keygen:
//     ed25519, and ecdsa if there was one. RSA keys are removed and not made again,
//     which would take many seconds under emulation. A running sshd is told.
//   - the network card, and /etc/resolv.conf with it, where Setup wants it otherwise
//     than it is
//   - TCP connections of which only one end is in this guest. They end with an
//     error at once, instead of hanging.
//   - hooks: the programs in /etc/smolvm/resume.d, in the order of their names, as
//     root, 10 seconds each, with SMOLVM_SANDBOX (the host name) and SMOLVM_RESUME
//     ("copy", or "resume" where the guest goes on as itself) in the environment.
//     They may send signals to processes, but must not wait for one. They must
//     belong to root and be writable by root alone.
//
// What fails of the last six, and of the files, is reported and holds nothing up.
//
// # Authorities
//
// Trust adds the sandbox's certificate authority to what programs believe in, in
// the place of the one before: the distribution's bundles, the directory that
// those are made from, OpenSSL's links by hash, and a store for Java where there is
// one. /etc/smolvm has the certificate alone.
package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/mux"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Options of Serve. The zero value serves the machine it runs on.
type Options struct {
	Version string // of the build, for Info
	Root    string // what file operations call /; empty: /
	// ReapAll takes the exit status of every child of this process, as process 1
	// must. No other part of the program may wait for a child then.
	ReapAll bool
	// Cgroup is a directory of a cgroup2 hierarchy to make a group in for each
	// process that is started; empty: process groups have to do.
	Cgroup string
	// Cgroups is the directory whose groups hold all processes of the machine but
	// this one, Cgroup among them; empty: nothing can be frozen.
	Cgroups string
	// BootID is a descriptor of the file that processes read for the machine's
	// boot id, empty at first; 0: the kernel's id stays.
	BootID int
	// Network says that the machine's network card is the agent's to set up.
	Network bool
	// BootMS is reported by Info.
	BootMS []string
	// Upper is the directory that holds what differs from the base image, as
	// overlayfs writes it; empty: Mark and Changes are refused.
	Upper string
	// Base is the directory of the base image; empty: it cannot be looked at.
	Base string
	// GrowDisk grows the writable file system to its device; nil: nothing to grow.
	GrowDisk func() error
	// Writable is a directory of the writable file system, to sync and to make
	// read-only at the end; empty: only sync.
	Writable string
	// PowerOff ends the machine; nil: Shutdown is refused.
	PowerOff func(reboot bool)
}

// Agent is the state behind all streams.
type Agent struct {
	o        Options
	root     string
	started  time.Time
	users    users
	reaper   reaper
	cgroups  cgroups
	hooks    cgroups // for hooks, which run while all others stand still; used by setup alone
	resumes  int     // that had hooks
	freezer  freezer
	random   randomDevice
	trusting sync.Mutex // held while authorities are changed
	net      network
	bootID   bootID
	procs    procTable
	front    procSet // those that a stream runs
	mark     mark
	folders  folders
	work     sync.WaitGroup
	ending   atomic.Bool // no new processes

	handlers atomic.Int32 // under way
}

// Serve serves the host at the other end of port until port's Read returns an
// error other than mux.ErrHostGone. All processes that were started are killed
// before it returns.
func Serve(ctx context.Context, port io.ReadWriter, o Options) error {
	a := &Agent{o: o, root: o.Root, started: time.Now()}
	if a.root == "" {
		a.root = "/"
	}
	a.users.root = a.root
	a.cgroups.dir = o.Cgroup
	a.freezer.dir = o.Cgroups
	a.bootID.fd = o.BootID
	a.reaper.init(o.ReapAll)
	err := mux.Serve(ctx, port, guest.Version, a.handle)
	a.procs.killAll()
	a.work.Wait()
	a.cgroups.close()
	a.endHooks()
	a.random.close()
	return err
}

// maxHandlers bounds the streams under way, with those whose host is gone and
// which have not noticed yet.
const maxHandlers = 2 * mux.MaxStreams

// handle serves one stream.
func (a *Agent) handle(ms *mux.Stream) {
	s := stream{ms}
	if a.handlers.Add(1) > maxHandlers {
		s.fail(api.Errorf(api.Exhausted, "the guest's agent has more than %d operations under way", maxHandlers))
		a.handlers.Add(-1)
		return
	}
	defer a.handlers.Add(-1)
	a.freezer.heard(s.Session())
	if err := a.dispatch(s); err != nil {
		s.fail(err)
	}
}

// dispatch runs the operation that a stream begins with.
func (a *Agent) dispatch(s stream) error {
	m, err := s.recvWhole()
	if err != nil {
		return err
	}
	if m.Kind != guest.KindOpen || len(m.Payload) == 0 {
		return api.Errorf(api.Invalid, "a stream begins with a message of kind %d", m.Kind)
	}
	op := a.operation(guest.Op(m.Payload[0]))
	if op == nil {
		return api.Errorf(api.Invalid, "operation %d is not known to this guest's agent", m.Payload[0])
	}
	return op(s, m.Payload[1:])
}

// operation returns the function of an operation.
func (a *Agent) operation(op guest.Op) func(stream, []byte) error {
	switch op {
	case guest.OpInfo:
		return query(a.info)
	case guest.OpSetup:
		return a.setup
	case guest.OpQuiesce:
		return a.quiesce
	case guest.OpThaw:
		return command(a.thaw)
	case guest.OpNetwork:
		return command(a.network)
	case guest.OpExec:
		return a.exec
	case guest.OpProcs:
		return query(a.procs.list)
	case guest.OpAttach:
		return a.attach
	case guest.OpSignal:
		return command(a.signalProc)
	case guest.OpForget:
		return command(a.forget)
	case guest.OpPs:
		return query(a.ps)
	case guest.OpStats:
		return query(a.stats)
	case guest.OpTrust:
		return a.trust
	case guest.OpFolder:
		return a.serveFolder
	case guest.OpFolders:
		return command(a.keepFolders)
	case guest.OpDial:
		return a.dial
	case guest.OpOwner:
		return a.socketOwner
	}
	return a.fileOperation(op)
}

// message is a pointer to a message type.
type message[T any] interface {
	*T
	wire.Message
}

// query makes an operation of a function without a request.
func query[T any, P message[T]](f func() (T, error)) func(stream, []byte) error {
	return func(s stream, _ []byte) error {
		r, err := f()
		if err != nil {
			return err
		}
		return s.reply(P(&r))
	}
}

// command makes an operation of a function without a reply.
func command[T any, P message[T]](f func(T) error) func(stream, []byte) error {
	return func(s stream, req []byte) error {
		var r T
		if err := unmarshal(req, P(&r)); err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
		return s.reply(&guest.Empty{})
	}
}

func unmarshal(req []byte, m wire.Message) error {
	if err := wire.Unmarshal(req, m); err != nil {
		return api.Errorf(api.Invalid, "read a request: %w", err)
	}
	return nil
}

// stream is a mux stream that speaks messages.
type stream struct{ *mux.Stream }

func (s stream) recv() (guest.Message, error) {
	k, p, err := s.Recv()
	return guest.Message{Kind: guest.Kind(k), Payload: p}, err
}

// over returns a channel that is closed when the stream is over.
func (s stream) over() <-chan struct{} {
	over := make(chan struct{})
	go func() {
		s.AwaitEnd()
		close(over)
	}()
	return over
}

// recvWhole receives a message that may have come in parts.
func (s stream) recvWhole() (guest.Message, error) {
	m, err := s.recv()
	if err != nil || m.Kind != guest.KindMore {
		return m, err
	}
	var whole []byte
	for {
		if len(whole)+len(m.Payload) > guest.MaxMessage {
			return m, api.Errorf(api.Exhausted, "a request is longer than %d bytes", guest.MaxMessage)
		}
		whole = append(whole, m.Payload...)
		if m.Kind != guest.KindMore {
			return guest.Message{Kind: m.Kind, Payload: whole}, nil
		}
		if m, err = s.recv(); err != nil {
			return m, err
		}
	}
}

// queue queues a message, in parts where it is long. It goes out with the next
// that is sent, and at the latest when the operation returns.
func (s stream) queue(k guest.Kind, p []byte) error {
	for len(p) > guest.MaxPayload {
		if err := s.Queue(uint8(guest.KindMore), p[:guest.MaxPayload]); err != nil {
			return err
		}
		p = p[guest.MaxPayload:]
	}
	return s.Queue(uint8(k), p)
}

func (s stream) reply(m wire.Message) error { return s.queue(guest.KindReply, wire.Marshal(m)) }

// fail ends a stream with a failure.
func (s stream) fail(err error) {
	f := guest.Failure{Class: string(classOf(err)), Message: err.Error()}
	s.queue(guest.KindError, wire.Marshal(&f))
}

// classOf gives an error of the system a class.
func classOf(err error) api.Class {
	if c := api.ClassOf(err); c != api.Internal {
		return c
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.NotFound
	case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ETXTBSY):
		return api.Conflict
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return api.Denied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		return api.Exhausted
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.EINVAL),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EXDEV):
		return api.Invalid
	}
	return api.Internal
}

// path turns a path of a request into one of this process.
func (a *Agent) path(p string) (string, error) {
	if p == "" {
		return "", api.Errorf(api.Invalid, "the path is empty")
	}
	if len(p) > maxPath {
		return "", api.Errorf(api.Invalid, "the path has %d bytes, %d are the most", len(p), maxPath)
	}
	for i := range len(p) {
		if p[i] == 0 {
			return "", api.Errorf(api.Invalid, "path %q holds a zero byte", p)
		}
	}
	return filepath.Join(a.root, filepath.Join("/", p)), nil
}

// maxPath is the kernel's bound, in bytes.
const maxPath = 4095

// bare strips what os adds to an error of the system: the paths in it are ours.
func bare(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}

// failed makes an error of one of the system: act names the act and its object.
func failed(act, path string, err error) error {
	err = bare(err)
	return api.Errorf(classOf(err), "%s %q: %w", act, path, err)
}
