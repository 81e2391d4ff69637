package gateway

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// SandboxLine is an event of sandboxes, or the error that ended their stream.
type SandboxLine struct {
	api.SandboxEvent
	Error *Failure `json:"error,omitempty"`
}

func (s *Server) eventRoutes() {
	stream(s, op{
		ID: "watch-sandboxes", Method: http.MethodGet, Path: "/v1/events", Scope: apikey.Read, Tag: tagSandboxes,
		Summary: "Watch sandboxes come, change and go",
		Details: "First an event present for each sandbox that there is, then ready, then what happens. Who does not read fast enough is told lost, and then what is so.",
		Answers: map[string]*huma.Schema{typeSSE: schemaOf[SandboxLine](s)},
	}, s.watchSandboxes)
}

func (s *Server) watchSandboxes(_ *struct{}, w http.ResponseWriter, r *http.Request) error {
	return serveEvents(w, r, func(send func(name string, data any) error) error {
		return s.client().WatchSandboxes(r.Context(), func(e smolvm.SandboxEvent) error { return send(string(e.Kind), e) })
	})
}
