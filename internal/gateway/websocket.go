package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/guest"
)

// ExecProtocol is the subprotocol of exec over a WebSocket (RFC 6455, section 1.9).
const ExecProtocol = "smolvm.exec.v1"

// The first byte of a binary message to the client says where the rest was written.
const (
	execStdout = 1
	execStderr = 2
)

// ExecMessage is a text message of the client after its first: one of the fields.
type ExecMessage struct {
	Resize     *ExecSize `json:"resize,omitempty"`      // the terminal's new size
	Signal     string    `json:"signal,omitempty"`      // such as "SIGINT", to the command and all it started
	CloseStdin bool      `json:"close_stdin,omitempty"` // the command reads end of file
}

// ExecSize is the size of a terminal.
type ExecSize struct {
	Rows int `json:"rows"`
	Cols int `json:"cols"`
}

func (s *Server) websocketRoutes() {
	stream(s, op{
		ID: "exec-websocket", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/exec/ws", Scope: apikey.Run, Tag: tagExec,
		Summary: "Run a command over a WebSocket, with input and terminal",
		Details: "Subprotocol " + ExecProtocol + ". The client's first message is an Exec as text. Then its binary messages are input, if " +
			"keep_stdin is set, and its text messages an ExecMessage each. The server sends output as binary messages, a byte (1 stdout, " +
			"2 stderr) and the bytes, and an ExecEvent as text for the start, and for the end, after which it closes.",
		Status: http.StatusSwitchingProtocols, Answers: map[string]*huma.Schema{},
	}, s.execWebSocket)
	schemaOf[ExecMessage](s)
}

// Bounds of a WebSocket.
const (
	firstTime   = 10 * time.Second // for the client's first message
	controlSize = 4 << 10          // bytes of a text message after it
	maxSide     = 1<<16 - 1        // rows and columns of a terminal: the kernel keeps 16 bits
	stallLook   = time.Second      // between looks at a client whose input waits
)

// errMessage is in the tree of errors of a client that breaks the protocol.
var errMessage = errors.New("message")

func (s *Server) execWebSocket(in *Ref, w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	sb, err := s.sandbox(r.Context(), *in)
	if err != nil {
		return err
	}
	hw := &hijacked{ResponseWriter: w}
	// Where the request may come from was looked at before.
	c, err := websocket.Accept(hw, r, &websocket.AcceptOptions{Subprotocols: []string{ExecProtocol}, InsecureSkipVerify: true})
	if err != nil {
		return nil // it was answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	ws := &execSocket{c: c, conn: hw.conn}
	last, err := ws.run(ctx, sb)
	status := websocket.StatusNormalClosure
	if err != nil {
		last.Type, last.Error = api.ExecFailed, refuse(err).err
	}
	if errors.Is(err, errMessage) {
		status = websocket.StatusPolicyViolation
	}
	if ws.event(ctx, last) == nil {
		c.Close(status, "")
	}
	c.CloseNow()
	cancel()
	ws.helpers.Wait()
	return nil
}

// checkUpgrade refuses what is no beginning of a WebSocket in our own words.
func checkUpgrade(r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-WebSocket-Key") == "" {
		return api.Errorf(api.Invalid, "open a WebSocket: this is a plain request").
			WithRecovery("Use a WebSocket client, or POST to exec.")
	}
	offered := r.Header.Get("Sec-WebSocket-Protocol")
	for p := range strings.SplitSeq(offered, ",") {
		if strings.TrimSpace(p) == ExecProtocol {
			return nil
		}
	}
	if offered != "" {
		return api.Errorf(api.Invalid, "open a WebSocket: the subprotocol %.60q is not %s", offered, ExecProtocol)
	}
	return nil
}

// hijacked remembers the connection that was taken over.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack takes the connection over.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, buf, err
}

// execSocket is one command over a WebSocket.
type execSocket struct {
	c       *websocket.Conn
	conn    net.Conn
	p       *smolvm.Process
	in      *io.PipeWriter // nil: the command takes no input
	helpers sync.WaitGroup
}

// run runs the command that the client's first message is, and returns the last event
// but for its error. The context bounds the connection.
func (ws *execSocket) run(ctx context.Context, sb *smolvm.Sandbox) (last api.ExecEvent, err error) {
	cmd, err := ws.first(ctx)
	if err == nil {
		err = mayRecord(ctx, cmd)
	}
	if err != nil {
		return last, err
	}
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	if cmd.KeepStdin {
		pr, pw := io.Pipe()
		defer pr.Close() // lets go of who reads and who writes
		ws.in = pw
		if cmd.Stdin == nil {
			cmd.Stdin = pr
		} else {
			cmd.Stdin = io.MultiReader(cmd.Stdin, pr)
		}
	}
	cmd.Stdout, cmd.Stderr = frames{ctx, ws.c, []byte{execStdout}}, frames{ctx, ws.c, []byte{execStderr}}
	if ws.p, err = sb.Exec(life, cmd); err != nil {
		return last, err
	}
	defer ws.p.Close()
	if err := ws.event(ctx, api.ExecEvent{Type: api.ExecStarted, PID: ws.p.PID()}); err != nil {
		return last, err
	}
	ws.helpers.Go(func() {
		err := ws.receive(ctx)
		end(err)
		if errors.Is(err, errMessage) {
			ws.linger(ctx) // it is told
		}
		ws.c.CloseNow()
	})
	ws.helpers.Go(func() { ws.ping(ctx) })
	ended, err := ws.p.Wait()
	if err != nil {
		if cause := context.Cause(life); cause != nil {
			err = cause
		}
		return last, err
	}
	last = api.ExecEvent{Type: api.ExecExit, Ended: &ended}
	if cmd.Checkpoint {
		last.Step, err = record(life, sb, cmd, ended)
	}
	return last, err
}

// first reads the command.
func (ws *execSocket) first(ctx context.Context) (c smolvm.Command, err error) {
	ctx, cancel := context.WithTimeout(ctx, firstTime)
	defer cancel()
	ws.c.SetReadLimit(execBody)
	typ, b, err := ws.c.Read(ctx)
	if err != nil {
		return c, err
	}
	ws.c.SetReadLimit(-1) // input is passed on as it comes
	if typ != websocket.MessageText {
		return c, bad("the first is not the command as text")
	}
	var e api.Exec
	if err := decode(b, &e); err != nil {
		return c, err
	}
	return commandOf(&e)
}

func bad(format string, args ...any) error {
	return api.Errorf(api.Invalid, "exec: %w: "+format, append([]any{errMessage}, args...)...)
}

// decode reads a message that holds one value of JSON and nothing else.
func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return bad("%v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("there is more than one value in it")
	}
	return nil
}

// event sends an event.
func (ws *execSocket) event(ctx context.Context, e api.ExecEvent) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return ws.c.Write(ctx, websocket.MessageText, b)
}

// frames sends what is written to it as binary messages that begin with head. A client
// that does not read holds it up, and so the command.
type frames struct {
	ctx  context.Context // of the connection
	c    *websocket.Conn
	head []byte
}

func (f frames) Write(p []byte) (int, error) {
	return len(p), f.c.Write(f.ctx, websocket.MessageBinary, append(f.head[:1:1], p...))
}

// ping keeps a quiet connection alive. Whether the client answers does not matter: one
// that is gone shows when it is written to.
func (ws *execSocket) ping(ctx context.Context) {
	tick := time.NewTicker(eventBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wait, cancel := context.WithTimeout(ctx, eventBeat)
		err := ws.c.Ping(wait)
		cancel()
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// receive takes the client's messages until it is gone, or sends what makes no sense.
func (ws *execSocket) receive(ctx context.Context) error {
	for {
		typ, r, err := ws.c.Reader(ctx)
		if err == nil {
			err = ws.message(typ, r)
		}
		if err != nil {
			return err
		}
	}
}

// linger waits until the connection has ended, or long enough for the last event.
func (ws *execSocket) linger(ctx context.Context) {
	t := time.NewTimer(closeTime)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (ws *execSocket) message(typ websocket.MessageType, r io.Reader) error {
	if typ == websocket.MessageBinary {
		return ws.input(r)
	}
	b, err := io.ReadAll(io.LimitReader(r, controlSize+1))
	if err != nil {
		return err
	}
	if len(b) > controlSize {
		return bad("it is longer than %d bytes", controlSize)
	}
	var m ExecMessage
	if err := decode(b, &m); err != nil {
		return err
	}
	return ws.control(m)
}

// input passes a message on to the command. One that has ended takes everything.
func (ws *execSocket) input(r io.Reader) error {
	if ws.in == nil {
		return bad("input, but the command was started without keep_stdin")
	}
	buf := make([]byte, guest.MaxPayload)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			ws.unlessGone(func() error { _, err := ws.in.Write(buf[:n]); return err })
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (ws *execSocket) control(m ExecMessage) error {
	set := 0
	for _, is := range []bool{m.Resize != nil, m.Signal != "", m.CloseStdin} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return bad("it is not one of resize, signal and close_stdin")
	case m.Resize != nil:
		s := *m.Resize
		if s.Rows < 1 || s.Rows > maxSide || s.Cols < 1 || s.Cols > maxSide {
			return bad("a terminal of %d rows and %d columns", s.Rows, s.Cols)
		}
		ws.unlessGone(func() error { return ws.p.Resize(s.Rows, s.Cols) })
	case m.Signal != "":
		if !isSignal(m.Signal) {
			return bad("signal %.20q is not known", m.Signal)
		}
		ws.unlessGone(func() error { return ws.p.Signal(m.Signal) })
	case ws.in != nil:
		ws.in.Close()
	}
	return nil
}

// isSignal reports whether the guest would take a signal's name, or number.
func isSignal(name string) bool {
	upper := strings.ToUpper(name)
	if unix.SignalNum(upper) != 0 || unix.SignalNum("SIG"+upper) != 0 {
		return true
	}
	n, err := strconv.Atoi(name)
	return err == nil && n >= 1 && n <= 64
}

// unlessGone gives the command something, which it may not take for long. The
// connection is not read meanwhile, so the client's end has to be looked for. That the
// command has ended is no error.
func (ws *execSocket) unlessGone(do func() error) {
	var look *time.Timer
	look = time.AfterFunc(stallLook, func() {
		if guest.HungUp(ws.conn) {
			if ws.in != nil {
				ws.in.Close()
			}
			ws.p.Close()
			ws.c.CloseNow()
			return
		}
		look.Reset(stallLook)
	})
	defer look.Stop()
	do()
}
