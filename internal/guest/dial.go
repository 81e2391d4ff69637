package guest

import (
	"context"
	"io"
	"slices"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Dial connects to a server in the guest: at its loopback addresses, and where
// nothing listens there at those of its network cards. The end of the connection's
// input is that of the stream's messages, each way by itself; a connection that is
// reset ends as an error, and a stream that is reset resets the connection.
type Dial struct {
	Proto string // "tcp" or "udp"
	Port  int
}

// Wire packs and unpacks d.
func (d *Dial) Wire(c *wire.Coder) {
	c.String(&d.Proto)
	c.Int(&d.Port)
}

// MaxDatagram is the longest datagram that UDP carries over IPv4, in bytes.
const MaxDatagram = 65507

// Flow is a connection to a server in the guest. Its methods may be called from
// several goroutines, Recv from one.
type Flow struct{ st *bound }

// Dial connects to a server. Class Unavailable where nothing listens, Timeout
// where the server does not take the connection. Over UDP nobody can tell before
// the first datagram, and the error comes from Recv. Close the flow when done.
func (c Client) Dial(ctx context.Context, d Dial) (*Flow, error) {
	st, err := c.open(ctx, OpDial, &d)
	if err != nil {
		return nil, err
	}
	if err := st.reply(&Empty{}); err != nil {
		st.Close()
		return nil, err
	}
	return &Flow{st}, nil
}

// Recv returns the next bytes, which are valid until the next Recv, or the next
// datagram. After the server's last it returns io.EOF.
func (f *Flow) Recv() ([]byte, error) {
	m, err := f.st.recv()
	if err == io.EOF {
		return nil, err
	}
	if err == nil && m.Kind != KindData {
		err = api.Errorf(api.Internal, "receive from a server in the guest: a message of kind %d", m.Kind)
	}
	return m.Payload, err
}

// Write sends bytes of a connection.
func (f *Flow) Write(p []byte) (int, error) {
	for chunk := range slices.Chunk(p, MaxPayload) {
		if err := f.st.send(KindData, chunk); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Send sends a datagram.
func (f *Flow) Send(p []byte) error { return f.st.send(KindData, p) }

// CloseSend ends the server's input. Output may still come.
func (f *Flow) CloseSend() error { return f.st.CloseSend() }

// Close ends the flow. Where either side has not ended, the connection is reset.
func (f *Flow) Close() error { return f.st.Close() }
