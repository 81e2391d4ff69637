package control

import (
	"context"
	"io"
	"time"
)

// CaptureProtocol is the upgrade that RouteCapture asks for: the supervisor sends
// a capture until the client closes its side, and then the rest.
const CaptureProtocol = "smolvm-capture"

// restTime bounds the rest of a capture that the client has ended.
const restTime = 10 * time.Second

// Capture copies packets as pcapng to w until ctx ends, which is no error, or the
// sandbox's network does.
func (c *Client) Capture(ctx context.Context, w io.Writer) error {
	return c.peer.Capture(ctx, ask(RouteCapture), w)
}

// Capture is Client.Capture by a route that switches to CaptureProtocol.
func (p Peer) Capture(ctx context.Context, r Request, w io.Writer) error {
	conn, err := p.Upgrade(ctx, r, CaptureProtocol, func(BufferedConn) error { return nil })
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		conn.SetReadDeadline(time.Now().Add(restTime))
		conn.CloseWrite()
	})()
	_, err = io.Copy(w, conn)
	return err
}
