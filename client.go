package smolvm

import (
	"context"

	"github.com/smolvm/smolvm/api"
)

// The words of the wire are the words of the SDK.
type (
	Spec             = api.Spec
	Info             = api.Sandbox
	State            = api.State
	Isolation        = api.Isolation
	Accel            = api.Accel
	Timings          = api.Timings
	Stats            = api.Stats
	FileInfo         = api.FileInfo
	FileEvent        = api.FileEvent
	GuestProcess     = api.GuestProcess
	Network          = api.Network
	Policy           = api.Policy
	InternetSettings = api.InternetSettings
	Rule             = api.Rule
	Secret           = api.Secret
	SecretStatus     = api.SecretStatus
	Port             = api.Port
	Mount            = api.Mount
	PendingFlow      = api.PendingFlow
	FlowAnswer       = api.FlowAnswer
	ListOptions      = api.ListOptions
	Collected        = api.Collected
	Error            = api.Error
)

// Error classes, for errors.Is.
var (
	ErrNotFound    = api.ErrNotFound
	ErrConflict    = api.ErrConflict
	ErrInvalid     = api.ErrInvalid
	ErrUnavailable = api.ErrUnavailable
	ErrTimeout     = api.ErrTimeout
	ErrDenied      = api.ErrDenied
	ErrExhausted   = api.ErrExhausted
	ErrInternal    = api.ErrInternal
)

// Client makes and finds sandboxes: those of this machine, or with BaseURL those
// behind a gateway (smolvm serve). The zero value works. It may be used from many
// goroutines; its fields must not change after the first call.
type Client struct {
	// BaseURL is the address of a gateway, such as "http://127.0.0.1:8080",
	// "https://sandboxes.example.com" or "unix:///home/me/api.sock". Home, Binary and
	// TemplateBudgetMiB are then the gateway's own. What is said of files of the host,
	// such as mounts, and of its ports means the gateway's host; CopyIn and CopyOut
	// copy from and to this one. Empty: the sandboxes of this machine.
	BaseURL string
	// APIKey is the key for the gateway at BaseURL, as smolvm key create printed it. A
	// Unix socket needs none. It goes over https, or to this machine, and nowhere else.
	APIKey string
	// Home is the state directory. Empty: $SMOLVM_HOME, else $XDG_STATE_HOME/smolvm,
	// else ~/.local/state/smolvm.
	Home string
	// Binary is the smolvm program that runs supervisors. Empty: $SMOLVM_BIN, else
	// smolvm next to the running program, else in $PATH.
	Binary string
	// Progress is told what a call that takes long is doing: a step such as
	// "pull base", and done and total in bytes where they are known, else zero.
	// It may be called from several goroutines. Nil: nobody is told.
	Progress func(step string, done, total int64)
	// TemplateBudgetMiB bounds what templates take on disk: making a new one removes
	// those that were not used for longest. Zero: api.DefaultTemplateBudgetMiB.
	TemplateBudgetMiB int
}

// Create makes a sandbox with the default client.
func Create(ctx context.Context, spec Spec) (*Sandbox, error) {
	return new(Client).Create(ctx, spec)
}

// Get finds a sandbox by id or name with the default client.
func Get(ctx context.Context, idOrName string) (*Sandbox, error) {
	return new(Client).Get(ctx, idOrName)
}

// Create makes a sandbox and returns when it runs. If it fails nothing is left.
// The context bounds the creation.
//
// Classes: Invalid for a bad spec, Conflict for a name that is taken, NotFound
// for an image that is not there, Denied where the host cannot give MinIsolation,
// Unavailable where QEMU or another requirement is missing.
func (c *Client) Create(ctx context.Context, spec Spec) (*Sandbox, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	h, err := b.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &Sandbox{h}, nil
}

// Get finds a sandbox by id, unique beginning of an id (four characters or
// more), or name. Class NotFound where there is none.
func (c *Client) Get(ctx context.Context, idOrName string) (*Sandbox, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	h, err := b.Get(ctx, idOrName)
	if err != nil {
		return nil, err
	}
	return &Sandbox{h}, nil
}

// List describes the sandboxes, oldest first.
func (c *Client) List(ctx context.Context, o ListOptions) ([]Info, error) {
	b, err := c.backend()
	if err != nil {
		return nil, err
	}
	return b.List(ctx, o)
}

// GC removes what no live sandbox owns: sandboxes whose creation was never
// finished, ephemeral ones whose client and supervisor died, half-made files.
// With dryRun it only says what it would remove.
func (c *Client) GC(ctx context.Context, dryRun bool) (Collected, error) {
	b, err := c.backend()
	if err != nil {
		return Collected{}, err
	}
	return b.GC(ctx, dryRun)
}
