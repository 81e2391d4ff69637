package smolvm

import (
	"context"

	"github.com/smolvm/smolvm/api"
)

// SandboxEvent is what happens to sandboxes.
type SandboxEvent = api.SandboxEvent

// WatchSandboxes calls f with each sandbox that there is, as api.SandboxPresent, with
// api.SandboxReady, and then with what happens to sandboxes: they come, change their
// state or anything else of their Info, also by dying, and go. It returns f's first
// error, or that of ctx when it ends. An f that takes long makes no memory grow: where it misses something, it is
// told api.SandboxLost and then what is so.
//
// Classes: Unavailable where the host or the gateway cannot watch (any more), Exhausted
// where it cannot watch so many.
func (c *Client) WatchSandboxes(ctx context.Context, f func(SandboxEvent) error) error {
	b, err := c.backend()
	if err != nil {
		return err
	}
	return b.Watch(ctx, f)
}
