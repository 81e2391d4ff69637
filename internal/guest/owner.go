package guest

import (
	"context"

	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Owner asks for the process that has a socket.
type Owner struct {
	Proto      string // "tcp" or "udp"
	Port       int    // the socket's own
	RemotePort int    // where it leads
}

// Owned is a process that has a socket. Argv is cut to a bound.
type Owned struct {
	PID  int
	Argv []string
}

// Owner finds the process that has a socket: class NotFound where there is none
// any more.
func (c Client) Owner(ctx context.Context, o Owner) (Owned, error) {
	var r Owned
	return r, c.call(ctx, OpOwner, &o, &r)
}

func (m *Owner) Wire(c *wire.Coder) {
	c.String(&m.Proto)
	c.Int(&m.Port)
	c.Int(&m.RemotePort)
}

func (m *Owned) Wire(c *wire.Coder) {
	c.Int(&m.PID)
	c.Strings(&m.Argv)
}
