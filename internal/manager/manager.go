// Package manager makes, finds and removes sandboxes.
package manager

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/store"
)

type Options struct {
	Binary   string
	Progress func(step string, done, total int64)
}
type Filter struct {
	States []api.State
	Labels map[string]string
}
type Collected struct {
	Sandboxes []string `json:"sandboxes"`
	Names     []string `json:"names"`
	Temporary []string `json:"temporary"`
	Images    []string `json:"images"`
	DryRun    bool     `json:"dry_run"`
}
type ConsoleOptions struct {
	Tail   int
	Follow bool
}
type Manager struct{}
type Handle struct{ guest.Opener }

func New(s store.Store, o Options) *Manager                                        { panic(0) }
func (m *Manager) Create(ctx context.Context, spec api.Spec) (*Handle, error)      { panic(0) }
func (m *Manager) Get(ctx context.Context, ref string) (*Handle, error)            { panic(0) }
func (m *Manager) List(ctx context.Context, f Filter) ([]api.Sandbox, error)       { panic(0) }
func (m *Manager) GC(ctx context.Context, dryRun bool) (Collected, error)          { panic(0) }
func (h *Handle) ID() string                                                       { panic(0) }
func (h *Handle) Info(ctx context.Context) (api.Sandbox, error)                    { panic(0) }
func (h *Handle) Start(ctx context.Context) error                                  { panic(0) }
func (h *Handle) Stop(ctx context.Context, o api.Stop) error                       { panic(0) }
func (h *Handle) Pause(ctx context.Context) error                                  { panic(0) }
func (h *Handle) Resume(ctx context.Context) error                                 { panic(0) }
func (h *Handle) Remove(ctx context.Context) error                                 { panic(0) }
func (h *Handle) Rename(ctx context.Context, name string) error                    { panic(0) }
func (h *Handle) Wait(ctx context.Context) (api.Sandbox, error)                    { panic(0) }
func (h *Handle) Env(ctx context.Context) (map[string]string, error)               { panic(0) }
func (h *Handle) ChangeEnv(context.Context, api.EnvChange) (api.EnvChanged, error) { panic(0) }
func (h *Handle) Stats(ctx context.Context) (api.Stats, error)                     { panic(0) }
func (h *Handle) Console(context.Context, io.Writer, ConsoleOptions) error         { panic(0) }
