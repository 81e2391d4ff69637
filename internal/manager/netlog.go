package manager

import (
	"context"
	"io"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/netlog"
	"github.com/smolvm/smolvm/internal/seal"
)

// NetworkLog calls f for each entry of the network's record, in every state of the
// sandbox. With Follow it goes on until the context ends or the sandbox stops.
func (h *Handle) NetworkLog(ctx context.Context, o api.NetworkLogOptions, f func(api.NetworkEntry) error) error {
	if _, err := h.Info(ctx); err != nil {
		return err
	}
	if o.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		var waiting sync.WaitGroup
		defer waiting.Wait()
		defer cancel()
		waiting.Go(func() {
			h.Wait(ctx)
			cancel()
		})
	}
	filter := netlog.Filter{Since: o.Since, Denied: o.Denied, Host: o.Host}
	return netlog.Read(ctx, h.dir().NetworkLog(), netlog.ReadOptions{Filter: filter, Follow: o.Follow}, f)
}

// VerifyNetworkLog holds the network's record against its chain.
func (h *Handle) VerifyNetworkLog(ctx context.Context) (api.NetworkReport, error) {
	if _, err := h.Info(ctx); err != nil {
		return api.NetworkReport{}, err
	}
	key, err := seal.OpenKey(h.m.store.Key())
	if err != nil {
		return api.NetworkReport{}, err
	}
	return netlog.Verify(h.dir().NetworkLog(), key)
}

// CapturePackets copies the packets of the network card as pcapng to w, until ctx
// ends, which is no error, or the network does.
func (h *Handle) CapturePackets(ctx context.Context, w io.Writer) error {
	return h.explain(ctx, control.NewClient(h.dir().Socket()).Capture(ctx, w))
}
