package mcpserver

import (
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// How long a session over HTTP lives without a request under way. Most clients hold
// a stream of notifications open: once it is lost they have a moment to come back.
// Of the others nobody knows but that they are silent.
const (
	goneTime = time.Minute
	idleTime = 30 * time.Minute
)

// maxBody bounds a request, which may write a file.
const maxBody = 8 << 20

// sessionHeader names a session (revision 2025-11-25, "Transports", session management).
const sessionHeader = "Mcp-Session-Id"

// Handler serves sessions over streamable HTTP at the path that it is mounted at.
// who tells who sends a request that was let in already; nil means one caller who
// may do everything. Hosts and origins are checked by who mounts it.
func (s *Server) Handler(who func(*http.Request) Caller) http.Handler {
	if who == nil {
		who = func(*http.Request) Caller { return Caller{} }
	}
	inner := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.mcp },
		&mcp.StreamableHTTPOptions{
			Logger: s.o.Log, MaxRequestBodyBytes: maxBody,
			DisableLocalhostProtection: true, // who mounts it knows all the host's names
		})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := who(r)
		r = r.WithContext(withCaller(r.Context(), caller))
		id := r.Header.Get(sessionHeader)
		if id == "" {
			if r.Method == http.MethodPost && s.full() {
				http.Error(w, "too many sessions are open", http.StatusTooManyRequests)
				return
			}
			inner.ServeHTTP(w, r)
			return
		}
		st := s.find(id)
		if st == nil || st.caller.ID != caller.ID {
			http.Error(w, "session not found", http.StatusNotFound)
			return
		}
		st.begin(r.Method == http.MethodGet)
		defer st.done()
		if r.Method == http.MethodDelete {
			st.cancel() // the session's end waits for what is under way
		}
		inner.ServeHTTP(w, r)
	})
}

func (s *Server) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || len(s.sessions) >= maxSessions
}

// find returns the session of an id; nil: there is none.
func (s *Server) find(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss, st := range s.sessions {
		if ss.ID() == id {
			return st
		}
	}
	return nil
}
