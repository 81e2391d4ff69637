package guest

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Client calls the operations of a guest. All methods may be called from any
// goroutine. A context covers the whole operation: its end closes the stream and
// ends the work in the guest, also the work behind a Process or reader that a
// method returned. Errors are of type *api.Error.
type Client struct{ Opener }

// call opens a stream of op, takes its reply and closes it.
func (c Client) call(ctx context.Context, op Op, req, reply wire.Message) error {
	st, err := c.open(ctx, op, req)
	if err != nil {
		return err
	}
	defer st.Close()
	return st.reply(reply)
}

// open opens a stream that ends with ctx.
func (c Client) open(ctx context.Context, op Op, req wire.Message) (*bound, error) {
	st, err := c.Opener.Open(ctx, op, req)
	if err != nil {
		return nil, err
	}
	return &bound{Stream: st, ctx: ctx, stop: context.AfterFunc(ctx, func() { st.Close() })}, nil
}

// bound is a stream that ends with a context. The context is that of the one
// operation the stream stands for.
type bound struct {
	Stream
	ctx  context.Context
	stop func() bool
}

func (b *bound) Close() error {
	b.stop()
	return b.Stream.Close()
}

// recv receives a whole message. A Failure becomes an error.
func (b *bound) recv() (Message, error) {
	m, err := RecvWhole(b.Stream)
	if err != nil {
		return Message{}, b.cause(err)
	}
	if m.Kind != KindError {
		return m, nil
	}
	return Message{}, FailureOf(m.Payload)
}

// FailureOf returns the error that a KindError carries.
func FailureOf(payload []byte) error {
	var f Failure
	if err := unmarshal(payload, &f); err != nil {
		return err
	}
	return f.err()
}

// cause prefers the end of the context to what it did to the stream.
func (b *bound) cause(err error) error {
	if err != io.EOF && b.ctx.Err() != nil {
		return lost("wait for the guest", context.Cause(b.ctx))
	}
	return err
}

// send sends a message. Where the guest has refused the work already its reason
// is returned.
func (b *bound) send(k Kind, p []byte) error {
	err := b.Send(k, p)
	if err == nil {
		return nil
	}
	return b.cause(err)
}

// reply receives the reply.
func (b *bound) reply(reply wire.Message) error {
	m, err := b.recv()
	if err != nil {
		return unexpected(err)
	}
	if m.Kind != KindReply {
		return api.Errorf(api.Internal, "receive from the guest: a message of kind %d where a reply had to be", m.Kind)
	}
	return unmarshal(m.Payload, reply)
}

func unmarshal(p []byte, m wire.Message) error {
	if err := wire.Unmarshal(p, m); err != nil {
		return api.Errorf(api.Internal, "receive from the guest: %w", err)
	}
	return nil
}

// maxFailure bounds the text of a failure, which a person may get to see, in bytes.
const maxFailure = 4 << 10

// err makes an error of a failure. The guest is not trusted: its text is cut, and
// stripped of what would move a terminal.
func (f *Failure) err() error {
	e := &api.Error{Class: api.Internal, Message: printable(f.Message), Code: printable(f.Code), Recovery: printable(f.Recovery)}
	switch class := api.Class(f.Class); class {
	case api.NotFound, api.Conflict, api.Invalid, api.Unavailable, api.Timeout, api.Denied, api.Exhausted:
		e.Class = class
	}
	return e
}

func printable(text string) string {
	if len(text) > maxFailure {
		text = text[:maxFailure] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// Info describes the guest.
func (c Client) Info(ctx context.Context) (Info, error) {
	var r Info
	err := c.call(ctx, OpInfo, &Empty{}, &r)
	return r, err
}

// Setup gives a booted or resumed guest its identity.
func (c Client) Setup(ctx context.Context, s Setup) error {
	_, err := c.Identify(ctx, s)
	return err
}

// Identify is Setup that also says what the guest is and what it could not do.
func (c Client) Identify(ctx context.Context, s Setup) (Ready, error) {
	var r Ready
	err := c.call(ctx, OpSetup, &s, &r)
	return r, err
}

// Quiesce prepares a guest to be saved. What it freezes stands still until Thaw,
// also where ctx ends meanwhile or the call fails otherwise; new processes wait to
// be started. The agent answers all the while. See the package's documentation for
// how a saved guest goes on.
func (c Client) Quiesce(ctx context.Context, q Quiesce) error {
	return c.call(ctx, OpQuiesce, &q, &Empty{})
}

// Thaw sets the guest's clock and has what Quiesce has frozen run on. It may be called at any time.
func (c Client) Thaw(ctx context.Context, clock time.Time) error {
	return c.call(ctx, OpThaw, &Thaw{TimeNS: clock.UnixNano()}, &Empty{})
}

// Procs lists the background processes.
func (c Client) Procs(ctx context.Context) ([]Proc, error) {
	var r ProcList
	err := c.call(ctx, OpProcs, &Empty{}, &r)
	return r.Procs, err
}

// Signal sends a signal, such as "SIGTERM", to the group of a background process.
func (c Client) Signal(ctx context.Context, proc, signal string) error {
	return c.call(ctx, OpSignal, &ProcSignal{proc, signal}, &Empty{})
}

// Forget drops an ended background process and its output.
func (c Client) Forget(ctx context.Context, proc string) error {
	return c.call(ctx, OpForget, &ProcRef{Proc: proc}, &Empty{})
}

// Ps lists all processes of the guest.
func (c Client) Ps(ctx context.Context) ([]PsEntry, error) {
	var r PsList
	err := c.call(ctx, OpPs, &Empty{}, &r)
	return r.Entries, err
}

// Stat describes a file.
func (c Client) Stat(ctx context.Context, p Path) (FileInfo, error) {
	var r FileInfo
	err := c.call(ctx, OpStat, &p, &r)
	return r, err
}

// maxList bounds the entries of a directory that are collected.
const maxList = 1 << 20

// List lists a directory by name.
func (c Client) List(ctx context.Context, path string) ([]FileInfo, error) {
	st, err := c.open(ctx, OpList, &Path{Path: path})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var all []FileInfo
	for {
		var part FileList
		m, err := st.recv()
		if err == io.EOF {
			return all, nil
		}
		if err == nil {
			err = unmarshal(m.Payload, &part)
		}
		if err != nil {
			return nil, err
		}
		if len(all)+len(part.Files) > maxList {
			return nil, api.Errorf(api.Exhausted, "list %q: more than %d entries", path, maxList)
		}
		all = append(all, part.Files...)
	}
}

// Mkdir makes a directory.
func (c Client) Mkdir(ctx context.Context, m Mkdir) error {
	return c.call(ctx, OpMkdir, &m, &Empty{})
}

// Remove removes a file or directory.
func (c Client) Remove(ctx context.Context, r Remove) error {
	return c.call(ctx, OpRemove, &r, &Empty{})
}

// Rename moves a file.
func (c Client) Rename(ctx context.Context, from, to string) error {
	return c.call(ctx, OpRename, &Rename{from, to}, &Empty{})
}

// SetNetwork brings the network card into a state.
func (c Client) SetNetwork(ctx context.Context, n Network) error {
	return c.call(ctx, OpNetwork, &n, &Empty{})
}

// Mark has changes counted from now on.
func (c Client) Mark(ctx context.Context) error {
	return c.call(ctx, OpMark, &Empty{}, &Empty{})
}

// Stats tells what the guest uses.
func (c Client) Stats(ctx context.Context) (Stats, error) {
	var r Stats
	err := c.call(ctx, OpStats, &Empty{}, &r)
	return r, err
}

// Shutdown has the guest end its processes and power off. It returns when the
// guest has begun; the end shows at the machine.
func (c Client) Shutdown(ctx context.Context, s Shutdown) error {
	return c.call(ctx, OpShutdown, &s, &Empty{})
}
