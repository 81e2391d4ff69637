package control

import (
	"bufio"
	"context"
	"io"
	"net"
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
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(upgradeTime))
	br := bufio.NewReader(conn)
	if err := upgrade(conn, br, RouteCapture, CaptureProtocol, func() error { return nil }); err != nil {
		return unanswered(err)
	}
	conn.SetDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() {
		conn.SetReadDeadline(time.Now().Add(restTime))
		if half, ok := conn.(*net.UnixConn); ok {
			half.CloseWrite()
		}
	})()
	_, err = io.Copy(w, br)
	return err
}
