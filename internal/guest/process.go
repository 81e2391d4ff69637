package guest

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Process is a process in the guest whose stream is held. Input, Resize, Signal
// and Close may be called while another goroutine is in Recv or Wait.
type Process struct {
	Started
	st *bound

	mu   sync.Mutex
	exit *Exit
}

// Output is a piece of what a process wrote.
type Output struct {
	Stderr bool
	Data   []byte // valid until the next Recv
}

// Exec starts a process. Close the process when done with it: that kills its
// group if it still runs. With e.Detach set use Start.
func (c Client) Exec(ctx context.Context, e Exec) (*Process, error) {
	return c.process(ctx, OpExec, &e)
}

// Attach takes up a background process: its kept output, then what it writes, and
// its input. Closing leaves the process running.
func (c Client) Attach(ctx context.Context, ref ProcRef) (*Process, error) {
	return c.process(ctx, OpAttach, &ref)
}

// Feed gives a background process what r holds, which need not be all it gets, and
// returns when the process has been given it. end ends its input then.
func (c Client) Feed(ctx context.Context, proc string, r io.Reader, end bool) error {
	p, err := c.Attach(ctx, ProcRef{Proc: proc, InputOnly: true})
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := io.Copy(p, r); err != nil {
		return err
	}
	if end {
		if err := p.CloseInput(); err != nil {
			return err
		}
	}
	if err := p.st.CloseSend(); err != nil {
		return p.st.cause(err)
	}
	if _, err := p.Recv(); err != io.EOF {
		return err
	}
	return nil
}

func (c Client) process(ctx context.Context, op Op, req wire.Message) (*Process, error) {
	st, err := c.open(ctx, op, req)
	if err != nil {
		return nil, err
	}
	p := &Process{st: st}
	if err := st.reply(&p.Started); err != nil {
		st.Close()
		return nil, err
	}
	return p, nil
}

// Start starts a background process, which lives on in the guest.
func (c Client) Start(ctx context.Context, e Exec) (Started, error) {
	e.Detach = true
	var r Started
	err := c.call(ctx, OpExec, &e, &r)
	return r, err
}

// Recv returns the next output, and io.EOF after the last: then the process has
// ended and Exit is known, or, for ProcRef.NoFollow, the kept output is through.
func (p *Process) Recv() (Output, error) {
	m, err := p.st.recv()
	if err == io.EOF {
		return Output{}, err
	}
	if err != nil {
		return Output{}, err
	}
	switch m.Kind {
	case KindStdout, KindStderr:
		return Output{m.Kind == KindStderr, m.Payload}, nil
	case KindExit:
		var e Exit
		if err := unmarshal(m.Payload, &e); err != nil {
			return Output{}, err
		}
		p.mu.Lock()
		p.exit = &e
		p.mu.Unlock()
		return Output{}, io.EOF
	}
	return Output{}, api.Errorf(api.Internal, "receive a process's output: a message of kind %d", m.Kind)
}

// Exit returns how the process ended; ok is false while it is not known.
func (p *Process) Exit() (e Exit, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit == nil {
		return Exit{}, false
	}
	return *p.exit, true
}

// Wait copies the output to stdout and stderr, either of which may be nil to drop
// it, until the process has ended. It does not close.
func (p *Process) Wait(stdout, stderr io.Writer) (Exit, error) {
	for {
		out, err := p.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Exit{}, err
		}
		w := stdout
		if out.Stderr {
			w = stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(out.Data); err != nil {
			return Exit{}, err
		}
	}
	e, ok := p.Exit()
	if !ok {
		return Exit{}, api.Errorf(api.Unavailable, "wait for process %s: the guest did not say how it ended", p.Proc)
	}
	return e, nil
}

// Write sends input. It fails once the process has ended.
func (p *Process) Write(b []byte) (int, error) {
	n := len(b)
	// An empty message would end the input.
	for chunk := range slices.Chunk(b, MaxPayload) {
		if err := p.st.send(KindData, chunk); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// CloseInput ends the input: the process reads end of file.
func (p *Process) CloseInput() error { return p.st.send(KindData, nil) }

// Resize sets the size of the terminal.
func (p *Process) Resize(rows, cols int) error {
	return p.st.send(KindResize, wire.Marshal(&Size{rows, cols}))
}

// Signal sends a signal, such as "SIGINT", to the process's group.
func (p *Process) Signal(name string) error {
	return p.st.send(KindSignal, wire.Marshal(&SignalName{name}))
}

// Close ends the stream. A process that was started by Exec and still runs is killed.
func (p *Process) Close() error { return p.st.Close() }

// RunLimit is how much of stdout and of stderr Run keeps where Exec.OutputLimit
// is zero, in bytes.
const RunLimit = 10 << 20

// Result is what a process left.
type Result struct {
	Exit
	Stdout, Stderr []byte
}

// Run runs a process without input to its end and collects its output, each of
// stdout and stderr up to e.OutputLimit (0: RunLimit).
func (c Client) Run(ctx context.Context, e Exec) (Result, error) {
	if e.OutputLimit <= 0 {
		e.OutputLimit = RunLimit
	}
	e.Stdin, e.Detach = false, false
	p, err := c.Exec(ctx, e)
	if err != nil {
		return Result{}, err
	}
	defer p.Close()
	// The guest keeps the limit; a hostile one has it kept here.
	out, errs := Capped{Left: e.OutputLimit}, Capped{Left: e.OutputLimit}
	exit, err := p.Wait(&out, &errs)
	if err != nil {
		return Result{}, err
	}
	exit.Truncated = exit.Truncated || out.Cut || errs.Cut
	return Result{Exit: exit, Stdout: out.Bytes, Stderr: errs.Bytes}, nil
}

// Capped is a writer that keeps the first Left bytes it is given.
type Capped struct {
	Bytes []byte
	Left  int64
	Cut   bool // there were more
}

// Write keeps what fits, and never fails.
func (c *Capped) Write(p []byte) (int, error) {
	n := len(p)
	if int64(n) > c.Left {
		p, c.Cut = p[:c.Left], true
	}
	c.Bytes = append(c.Bytes, p...)
	c.Left -= int64(len(p))
	return n, nil
}
