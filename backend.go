package smolvm

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/manager"
	"github.com/smolvm/smolvm/internal/remote"
	"github.com/smolvm/smolvm/internal/store"
)

// backend makes and finds sandboxes: those of this machine (internal/manager), or
// those behind a gateway (internal/remote).
type backend interface {
	Create(context.Context, Spec) (handle, error)
	Get(ctx context.Context, ref string) (handle, error)
	List(context.Context, ListOptions) ([]Info, error)
	GC(ctx context.Context, dryRun bool) (Collected, error)
	Watch(context.Context, func(SandboxEvent) error) error

	Templates(context.Context) ([]Template, error)
	BuildTemplate(context.Context, Spec) (Template, error)
	RemoveTemplate(ctx context.Context, key string) error

	Snapshots(context.Context) ([]Snapshot, error)
	Snapshot(ctx context.Context, name string) (Snapshot, error)
	RemoveSnapshot(ctx context.Context, name string) error
	SaveSnapshot(ctx context.Context, name string, w io.Writer) error
	LoadSnapshot(context.Context, io.Reader, LoadSnapshot) (Snapshot, error)

	SetPool(context.Context, Pool) (Pool, error)
	Pools(context.Context) ([]Pool, error)
	DrainPools(ctx context.Context, image string) ([]Pool, error)
}

// handle is one sandbox of a backend. What happens inside it (commands, files,
// copies) is a stream that the handle opens, and the same code for every backend.
type handle interface {
	guest.Opener
	ID() string

	Info(context.Context) (Info, error)
	Start(context.Context) error
	Stop(context.Context, StopOptions) error
	Pause(context.Context) error
	Resume(context.Context) error
	Remove(context.Context) error
	Rename(ctx context.Context, name string) error
	Wait(context.Context) (Info, error)

	Env(context.Context) (map[string]string, error)
	ChangeEnv(context.Context, api.EnvChange) (api.EnvChanged, error)
	Stats(context.Context) (Stats, error)
	Console(context.Context, io.Writer, ConsoleOptions) error

	Expose(context.Context, Port) (Port, error)
	Unexpose(context.Context, Port) ([]Port, error)
	Network(context.Context) (Network, error)
	SetNetwork(context.Context, NetworkChange) (Network, error)
	NetworkLog(context.Context, NetworkLogOptions, func(NetworkEntry) error) error
	VerifyNetworkLog(context.Context) (NetworkReport, error)
	CapturePackets(context.Context, io.Writer) error
	PendingFlows(context.Context) ([]PendingFlow, error)
	AnswerFlow(context.Context, FlowAnswer) (api.FlowOutcome, error)
	WatchFlows(context.Context, func(FlowEvent) error) error
	Secrets(context.Context) ([]SecretStatus, error)
	SetSecret(context.Context, Secret) (SecretStatus, error)
	RemoveSecret(ctx context.Context, name string) error

	TakeSnapshot(context.Context, TakeSnapshot) (Snapshot, error)
	Fork(context.Context, ForkOptions) ([]handle, error)
	Checkpoint(context.Context, Checkpoint) (Step, error)
	History(context.Context) (History, error)
	Rewind(ctx context.Context, step int) error
	Diff(context.Context, DiffOptions) ([]Change, error)
	ExportDiff(ctx context.Context, w io.Writer, dir string, f DiffFormat, o DiffOptions) (skipped []string, err error)
}

// backend opens what the calls of c go to.
func (c *Client) backend() (backend, error) {
	if c.BaseURL != "" {
		r, err := remote.New(remote.Options{BaseURL: c.BaseURL, APIKey: c.APIKey, Progress: c.Progress})
		return behindGateway{r}, err
	}
	s, err := store.Open(c.Home)
	if err != nil {
		return nil, err
	}
	return onThisMachine{manager.New(s, manager.Options{
		Binary: c.Binary, Progress: c.Progress, TemplateBudgetMiB: c.TemplateBudgetMiB,
	})}, nil
}

// onThisMachine is a manager as a backend. It only says of what a manager returns
// that it is a handle; so does behindGateway.
type onThisMachine struct{ *manager.Manager }

type localHandle struct{ *manager.Handle }

func (m onThisMachine) Create(ctx context.Context, s Spec) (handle, error) {
	h, err := m.Manager.Create(ctx, s)
	return localHandle{h}, err
}

func (m onThisMachine) Get(ctx context.Context, ref string) (handle, error) {
	h, err := m.Manager.Get(ctx, ref)
	return localHandle{h}, err
}

func (h localHandle) Fork(ctx context.Context, o ForkOptions) ([]handle, error) {
	list, err := h.Handle.Fork(ctx, o)
	children := make([]handle, len(list))
	for i, child := range list {
		children[i] = localHandle{child}
	}
	return children, err
}

type behindGateway struct{ *remote.Client }

type remoteHandle struct{ *remote.Handle }

func (g behindGateway) Create(ctx context.Context, s Spec) (handle, error) {
	h, err := g.Client.Create(ctx, s)
	return remoteHandle{h}, err
}

func (g behindGateway) Get(ctx context.Context, ref string) (handle, error) {
	h, err := g.Client.Get(ctx, ref)
	return remoteHandle{h}, err
}

func (h remoteHandle) Fork(ctx context.Context, o ForkOptions) ([]handle, error) {
	list, err := h.Handle.Fork(ctx, o)
	children := make([]handle, len(list))
	for i, child := range list {
		children[i] = remoteHandle{child}
	}
	return children, err
}
