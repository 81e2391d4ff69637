package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// openTime bounds the first message of a stream, which clients send at once.
const openTime = 10 * time.Second

// errAsleep refuses a stream before anything of it has reached the guest, so that it
// can be asked for again.
var errAsleep = api.Errorf(api.Unavailable, "the sandbox is about to hibernate").WithCode(control.CodeAsleep)

// stream turns a connection into a guest stream and passes its messages on
// until either side ends.
func (s *Supervisor) stream(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != control.StreamProtocol {
		control.Answer(w, nil, api.Errorf(api.Invalid, "open stream: ask for an upgrade to %s", control.StreamProtocol))
		return
	}
	end, ok := s.idle.begin()
	if !ok {
		control.Answer(w, nil, errAsleep)
		return
	}
	defer end()
	s.server.streams.Add(1) // before Hijack: until then Shutdown waits for it
	defer s.server.streams.Done()
	conn, in, err := upgraded(w, control.StreamProtocol)
	if err != nil {
		return
	}
	defer conn.Close()
	// hangUp must not wait for a client that does not end.
	defer context.AfterFunc(s.server.closing, func() { conn.Close() })()
	client := guest.NewConn(control.BufferedConn{Conn: conn, R: in})
	work, err := s.openGuest(s.server.closing, client)
	if err != nil {
		refuse(client, err)
		return
	}
	conn.SetDeadline(time.Time{})
	guest.Relay(s.server.closing, client, work)
}

// upgraded switches a request's connection to a protocol, whose first message may
// take openTime. What it refuses it has answered.
func upgraded(w http.ResponseWriter, protocol string) (net.Conn, *bufio.Reader, error) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		control.Answer(w, nil, err)
		return nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(openTime))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, buf.Reader, nil
}

// openGuest reads the client's first message and opens the stream it asks for.
func (s *Supervisor) openGuest(ctx context.Context, client guest.Stream) (guest.Stream, error) {
	op, req, err := guest.Accept(client)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.up: // many may come while one wakes it
	case <-ctx.Done():
		return nil, s.notRunning(s.gate.get().State)
	}
	switch st := s.gate.get().State; st {
	case api.StateRunning:
	case api.StatePaused:
		return nil, api.Errorf(api.Conflict, "sandbox %q is paused", s.record().Spec.Name).
			WithCode("not_running").WithRecovery("Resume it with: smolvm resume %s", s.record().Spec.Name)
	default:
		return nil, s.notRunning(st)
	}
	switch op {
	case guest.OpExec:
		return s.exec(ctx, req)
	case guest.OpSetup, guest.OpShutdown, guest.OpQuiesce, guest.OpThaw, guest.OpFolder, guest.OpFolders, guest.OpTrust, guest.OpNetwork:
		return nil, api.Errorf(api.Denied, "operation %d is the supervisor's own", op)
	}
	return s.session().Open(ctx, op, req)
}

func (s *Supervisor) exec(ctx context.Context, req wire.Raw) (guest.Stream, error) {
	e, err := s.completeExec(req)
	if err != nil {
		return nil, err
	}
	session := s.session()
	st, err := session.Open(ctx, guest.OpExec, e)
	if err != nil || s.record().Spec.Checkpoint != api.CheckpointEachCommand || e.Detach {
		return st, err
	}
	return eachCommand{Stream: st, s: s, session: session, label: strings.Join(e.Argv, " ")}, nil
}

// completeExec fills what a command leaves open from the sandbox and its image.
func (s *Supervisor) completeExec(req wire.Raw) (*guest.Exec, error) {
	var e guest.Exec
	if err := wire.Unmarshal(req, &e); err != nil {
		return nil, api.Errorf(api.Invalid, "exec: %w", err)
	}
	rec := s.record()
	if len(e.Argv) == 0 {
		e.Argv = rec.Image.Command
	}
	if len(e.Argv) == 0 {
		return nil, api.Errorf(api.Invalid, "exec: no command given and image %q names none", rec.Spec.Image)
	}
	if e.Dir == "" {
		e.Dir = rec.Image.WorkingDir
	}
	if e.User == "" {
		e.User = rec.Image.User
	}
	e.Env = mergeEnv(rec.Image.Env, s.trust.environment(), s.secrets.Env(), pairs(rec.Spec.Env), e.Env)
	return &e, nil
}

// mergeEnv joins lists of KEY=VALUE; later lists win.
func mergeEnv(lists ...[]string) []string {
	m := map[string]string{}
	for _, l := range lists {
		for _, kv := range l {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
	}
	return pairs(m)
}

func pairs(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

// refuse ends a client's stream with an error.
func refuse(client guest.Stream, err error) {
	e := api.AsError(err)
	if errors.Is(err, context.Canceled) {
		e = &api.Error{Class: api.Unavailable, Message: "the sandbox is ending"}
	}
	guest.Refuse(client, e)
}
