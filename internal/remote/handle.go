package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Handle is a sandbox that was found or made.
type Handle struct {
	c  *Client
	id string

	mu    sync.Mutex
	lease *lease // of an ephemeral sandbox that this client made or started
}

// ID returns the sandbox's id.
func (h *Handle) ID() string { return h.id }

// path is a path below the sandbox's.
func (h *Handle) path(more ...string) string {
	return path(append([]string{"sandboxes", h.id}, more...)...)
}

func (h *Handle) get(ctx context.Context, what string, out any) error {
	return h.c.call(ctx, http.MethodGet, h.path(what), nil, out)
}

func (h *Handle) post(ctx context.Context, what string, in, out any) error {
	return h.c.call(ctx, http.MethodPost, h.path(what), in, out)
}

// Open opens a guest stream. It implements guest.Opener. The gateway wakes a sandbox
// that hibernates for it.
func (h *Handle) Open(ctx context.Context, op guest.Op, req wire.Message) (guest.Stream, error) {
	return h.c.peer.Open(ctx, h.c.request(http.MethodGet, h.path("stream")), op, req)
}

// Info describes the sandbox as it is now.
func (h *Handle) Info(ctx context.Context) (out api.Sandbox, err error) {
	err = h.c.call(ctx, http.MethodGet, h.path(), nil, &out)
	return out, err
}

// Start boots the sandbox where it has no VM.
func (h *Handle) Start(ctx context.Context) error {
	info, err := h.Info(ctx)
	if err != nil {
		return err
	}
	var l *lease
	if info.Ephemeral && info.State != api.StateRunning {
		if l, err = h.c.newLease(ctx, 1); err != nil {
			return err
		}
	}
	_, err = h.c.make(ctx, "start sandbox", h.path("start"), nil, l)
	if err == nil && l != nil {
		h.keep(l)
	} else if l != nil {
		l.release()
	}
	return err
}

// keep holds the lease of an ephemeral sandbox, in place of the one that it had.
func (h *Handle) keep(l *lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lease != nil {
		h.lease.release()
	}
	h.lease = l
}

// Stop stops the sandbox where it has a VM.
func (h *Handle) Stop(ctx context.Context, o api.Stop) error {
	err := h.post(ctx, "stop", o, nil)
	if err == nil {
		h.keep(nil)
	}
	return err
}

// Pause halts the VM.
func (h *Handle) Pause(ctx context.Context) error { return h.post(ctx, "pause", nil, nil) }

// Resume lets it go on.
func (h *Handle) Resume(ctx context.Context) error { return h.post(ctx, "resume", nil, nil) }

// Remove ends and removes the sandbox. One that is gone is no error.
func (h *Handle) Remove(ctx context.Context) error {
	err := h.c.call(ctx, http.MethodDelete, h.path(), nil, nil)
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		return err
	}
	h.keep(nil)
	return nil
}

// Rename gives the sandbox another name.
func (h *Handle) Rename(ctx context.Context, name string) error {
	return h.post(ctx, "rename", struct {
		Name string `json:"name"`
	}{name}, nil)
}

// Wait returns when the sandbox has no VM any more.
func (h *Handle) Wait(ctx context.Context) (out api.Sandbox, err error) {
	err = h.post(ctx, "wait", nil, &out)
	return out, err
}

// Env returns the sandbox's environment.
func (h *Handle) Env(ctx context.Context) (out map[string]string, err error) {
	err = h.get(ctx, "env", &out)
	return out, err
}

// ChangeEnv changes the sandbox's environment.
func (h *Handle) ChangeEnv(ctx context.Context, c api.EnvChange) (out api.EnvChanged, err error) {
	err = h.post(ctx, "env", c, &out)
	return out, err
}

// Stats measures what the sandbox uses.
func (h *Handle) Stats(ctx context.Context) (out api.Stats, err error) {
	err = h.get(ctx, "stats", &out)
	return out, err
}

// Console copies the guest's console to w.
func (h *Handle) Console(ctx context.Context, w io.Writer, o api.ConsoleOptions) error {
	tail := ""
	if o.Tail > 0 {
		tail = strconv.Itoa(o.Tail)
	}
	_, err := h.c.download(ctx, query(h.path("console"), "tail", tail, "follow", flag(o.Follow)), w)
	if o.Follow && ctx.Err() != nil {
		return nil // as it was asked for
	}
	return err
}
