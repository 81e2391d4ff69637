package remote

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/smolvm/smolvm/api"
)

// Watch calls f with each sandbox that there is and then with what happens, until ctx
// ends or the gateway does, which are errors.
func (c *Client) Watch(ctx context.Context, f func(api.SandboxEvent) error) error {
	err := c.peer.Events(ctx, c.request(http.MethodGet, path("events")), func(_ string, data []byte) error {
		var e struct {
			api.SandboxEvent
			Error *api.Error `json:"error"`
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return api.Errorf(api.Internal, "read event %.200q: %w", data, err)
		}
		if e.Error != nil {
			return e.Error
		}
		return f(e.SandboxEvent)
	})
	if err == nil {
		return api.Errorf(api.Unavailable, "watch sandboxes: %s: %w", c.peer.Name, errBroken)
	}
	return err
}
