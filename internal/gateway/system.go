package gateway

import (
	"context"
	"net/http"
	"runtime"

	"github.com/smolvm/smolvm/internal/apikey"
)

// Version says what answers.
type Version struct {
	Version string `json:"version"` // of smolvm
	Go      string `json:"go"`
	API     string `json:"api"` // "v1"
}

// Health says that the server answers.
type Health struct {
	Status string `json:"status"` // "ok"
}

const tagServer = "Server"

func (s *Server) systemRoutes() {
	route(s, op{
		ID: "get-version", Method: http.MethodGet, Path: "/v1/version", Scope: apikey.Read, Tag: tagServer,
		Summary: "Tell the version",
	}, func(context.Context, *struct{}) (*reply[Version], error) {
		return &reply[Version]{Version{s.opts.Version, runtime.Version(), apiVersion}}, nil
	})
	route(s, op{
		ID: "get-health", Method: http.MethodGet, Path: "/healthz", Public: true, Tag: tagServer,
		Summary: "Tell that the server answers",
	}, func(context.Context, *struct{}) (*reply[Health], error) {
		return &reply[Health]{Health{"ok"}}, nil
	})
}
