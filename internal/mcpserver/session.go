package mcpserver

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// session is what the server keeps of one session of the protocol.
type session struct {
	s       *Server
	ss      *mcp.ServerSession
	caller  Caller
	ctx     context.Context // ends with the session: calls under way end with it
	cancel  context.CancelFunc
	removed chan struct{} // closed when its sandboxes are gone
	outputs outputs

	making sync.Mutex // held by who makes the default sandbox

	mu      sync.Mutex
	closed  bool
	owned   map[string]owned // by id
	pending int              // sandboxes under way to be owned
	first   string           // id of the default sandbox; empty: none yet

	// Of a session over HTTP.
	busy     int  // requests under way
	streamed bool // there was a stream of notifications
	timer    *time.Timer
}

// owned is a sandbox that a session made.
type owned struct {
	sb   *smolvm.Sandbox
	kept bool // it stays when the session ends
}

type sessionKey struct{}

// sessionOf returns the session of a call.
func sessionOf(ctx context.Context) *session {
	st, _ := ctx.Value(sessionKey{}).(*session)
	return st
}

// receive is the middleware that gives each message its session.
func (s *Server) receive(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		st, err := s.session(ctx, req.GetSession().(*mcp.ServerSession))
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(context.WithValue(ctx, sessionKey{}, st))
		defer cancel()
		defer context.AfterFunc(st.ctx, cancel)()
		res, err := next(ctx, method, req)
		switch res := res.(type) {
		case *mcp.ListToolsResult:
			s.onlyAllowed(res, st.caller)
		case *mcp.ListResourcesResult:
			st.addResources(res)
		}
		return res, err
	}
}

// session returns what is kept of a session, from its first message on.
func (s *Server) session(ctx context.Context, ss *mcp.ServerSession) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.sessions[ss]; st != nil {
		return st, nil
	}
	if s.closed {
		return nil, api.Errorf(api.Unavailable, "open a session: the server is going down")
	}
	st := &session{s: s, ss: ss, caller: callerOf(ctx), removed: make(chan struct{}), owned: map[string]owned{}}
	st.ctx, st.cancel = context.WithCancel(context.Background())
	if ss.ID() != "" {
		st.timer = time.AfterFunc(s.times.idle, st.end)
	}
	s.sessions[ss] = st
	s.ended.Go(func() {
		ss.Wait() // says only how the connection broke
		st.close()
	})
	return st, nil
}

// begin and done stand around a request over HTTP.
func (st *session) begin(stream bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.busy++
	st.streamed = st.streamed || stream
	st.timer.Stop()
}

func (st *session) done() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.busy--
	if st.busy > 0 || st.closed {
		return
	}
	wait := st.s.times.idle
	if st.streamed {
		wait = st.s.times.gone
	}
	st.timer.Reset(wait)
}

// end ends the session: what is under way first, for which the protocol's own end
// waits.
func (st *session) end() {
	st.cancel()
	st.ss.Close()
}

// close removes what the session made, after its connection has ended.
func (st *session) close() {
	defer close(st.removed)
	st.cancel()
	st.mu.Lock()
	st.closed = true
	if st.timer != nil {
		st.timer.Stop()
	}
	gone := st.owned
	st.owned = nil
	st.mu.Unlock()
	st.outputs.clear()

	st.s.mu.Lock()
	delete(st.s.sessions, st.ss)
	st.s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), removeTime)
	defer cancel()
	var wg sync.WaitGroup
	for id, o := range gone {
		if o.kept {
			continue
		}
		wg.Go(func() {
			if err := o.sb.Remove(ctx); err != nil {
				st.s.o.Log.Error("remove a sandbox of an ended session", "sandbox", id, "error", err)
			}
		})
	}
	wg.Wait()
}

// reserve makes sure that n sandboxes more may be made. Call the function that it
// returns when they are, or are not.
func (st *session) reserve(n int) (func(), error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.owned)+st.pending+n > maxSandboxes {
		return nil, api.Errorf(api.Exhausted, "make %d more sandboxes: a session has at most %d", n, maxSandboxes).
			WithRecovery("Remove some with remove_sandbox.")
	}
	st.pending += n
	return func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.pending -= n
	}, nil
}

// adopt makes new sandboxes the session's. If it ended meanwhile they are removed.
func (st *session) adopt(ctx context.Context, kept bool, list ...*smolvm.Sandbox) error {
	st.mu.Lock()
	closed := st.closed
	for _, sb := range list {
		if !closed {
			st.owned[sb.ID()] = owned{sb, kept}
		}
	}
	st.mu.Unlock()
	if !closed {
		return nil
	}
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	err := context.Canceled
	for _, sb := range list {
		err = errors.Join(err, sb.Remove(ctx))
	}
	return err
}

// setStandard makes a sandbox the default one where there is none.
func (st *session) setStandard(id string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.first == "" {
		st.first = id
	}
}

// forget drops a sandbox that was removed.
func (st *session) forget(id string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.owned, id)
	if st.first == id {
		st.first = ""
	}
}

func (st *session) has(id string) (owned, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	o, ok := st.owned[id]
	return o, ok
}

// standard returns the id of the default sandbox; empty: there is none yet.
func (st *session) standard() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.first
}
