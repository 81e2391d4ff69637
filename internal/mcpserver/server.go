package mcpserver

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/apikey"
)

// Bounds of one session and of one server, and the times they keep.
const (
	maxSessions  = 256 // over HTTP
	maxSandboxes = 32  // that one session made and that still are
	progressTime = 3 * time.Second
	removeTime   = time.Minute // for all sandboxes of a session that ended
)

// Options say what a server offers. Client is required.
type Options struct {
	Client *smolvm.Client
	// Version is shown to clients. Empty: "unknown".
	Version string
	// Spec is what sandboxes are made of where a tool's arguments do not say. The
	// network that it asks for cannot be widened by a model. Its name is not used.
	Spec smolvm.Spec
	// All lets sessions use every sandbox of the state directory. Otherwise they see
	// those that they made, and those that others made by MCP and asked to keep.
	All bool
	// AllowApprove offers the tool that lets a model approve what its own sandbox
	// asks for, in a person's place.
	AllowApprove bool
	// Log is told what goes wrong beside the calls. Nil: nobody is.
	Log *slog.Logger
}

// Server serves sessions. Close it.
type Server struct {
	o      Options
	mcp    *mcp.Server
	times  times
	scopes map[string]apikey.Scope // of tools

	mu       sync.Mutex
	closed   bool
	sessions map[*mcp.ServerSession]*session
	ended    sync.WaitGroup // counts sessions
}

// times are what a server waits for; tests have less patience.
type times struct {
	progress time.Duration // between two notifications of a call under way
	gone     time.Duration // until a session over HTTP ends that lost its stream
	idle     time.Duration // until one ends that is silent
}

// instructions are shown to models that their client lets see them.
const instructions = `Tools run in disposable Linux microVMs (sandboxes), never on the user's machine. ` +
	`Without "sandbox" a tool uses this session's default sandbox, which is made on first use. ` +
	`Files and installed packages stay until the sandbox is removed, at the latest at the end of the session ` +
	`(create_sandbox with keep: true makes one that stays). Paths are absolute.`

// New returns a server. It starts nothing.
func New(o Options) *Server {
	if o.Version == "" {
		o.Version = "unknown"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		o: o, times: times{progressTime, goneTime, idleTime},
		scopes:   map[string]apikey.Scope{},
		sessions: map[*mcp.ServerSession]*session{},
	}
	s.mcp = mcp.NewServer(
		&mcp.Implementation{Name: "smolvm", Title: "smolvm sandboxes", Version: o.Version},
		&mcp.ServerOptions{
			Instructions: instructions,
			Logger:       o.Log,
			// Tools do not change while a session lives, and nothing is logged to clients.
			Capabilities: &mcp.ServerCapabilities{
				Tools: &mcp.ToolCapabilities{}, Resources: &mcp.ResourceCapabilities{},
			},
		})
	s.mcp.AddReceivingMiddleware(s.receive)
	s.addTools()
	s.addResources()
	return s
}

// Serve serves one session over two streams, such as standard input and output,
// until the client closes its end, which is no error, or ctx is done. When it
// returns the session's sandboxes are removed.
func (s *Server) Serve(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
	ss, err := s.mcp.Connect(ctx, &mcp.IOTransport{Reader: in, Writer: out}, nil)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.end(ss) })
	defer stop()
	err = ss.Wait()
	s.end(ss)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Close ends all sessions and returns when their sandboxes are removed. A second
// call waits for the same.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	var open []*session
	for _, st := range s.sessions {
		open = append(open, st)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, st := range open {
		wg.Go(st.end)
	}
	wg.Wait()
	s.ended.Wait()
}

// end ends one session and returns when its sandboxes are removed.
func (s *Server) end(ss *mcp.ServerSession) {
	s.mu.Lock()
	st := s.sessions[ss]
	s.mu.Unlock()
	if st != nil {
		st.end()
		<-st.removed
		return
	}
	ss.Close()
}
