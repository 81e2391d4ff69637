package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/smolvm/smolvm/api"
)

// lease is an open answer of the gateway, which ties ephemeral sandboxes to this
// program: when its connection ends, however that is, they are removed.
type lease struct {
	id   string
	left atomic.Int32 // sandboxes that hold it
	end  context.CancelFunc
}

// newLease takes a lease for n sandboxes. The context bounds the call only.
func (c *Client) newLease(ctx context.Context, n int) (*lease, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	given, body, err := c.askLease(life)
	if !stop() && err == nil {
		body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	// It ends with the connection. It also keeps that from the garbage collector, which
	// would close it for a caller that has dropped the sandbox but uses it.
	go func() {
		io.Copy(io.Discard, body)
		body.Close()
	}()
	l := &lease{id: given.ID, end: end}
	l.left.Store(int32(n))
	return l, nil
}

func (c *Client) askLease(ctx context.Context) (given api.Lease, body io.ReadCloser, err error) {
	res, err := c.peer.Do(ctx, c.request(http.MethodPost, path("leases")))
	if err != nil {
		return given, nil, err
	}
	in := bufio.NewReader(res.Body)
	line, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &given)
	}
	if err == nil && given.ID == "" {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		res.Body.Close()
		return given, nil, api.Errorf(api.Unavailable, "take a lease of %s: %w", c.peer.Name, err)
	}
	return given, res.Body, nil
}

// release ends the lease when all its sandboxes have been released.
func (l *lease) release() {
	if l.left.Add(-1) == 0 {
		l.end()
	}
}
