package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/vmm"
)

// commandTime bounds one command.
const commandTime = 30 * time.Second

// talk is a machine and the connection to its guest.
type talk struct {
	vm      vmm.Machine
	conn    net.Conn
	session *guest.Session // with the agent; nil where there is none
}

func (f Floor) dial(ctx context.Context, m vmm.Machine) (*talk, error) {
	conn, err := m.Dial(ctx)
	if err != nil {
		return nil, err
	}
	t := &talk{vm: m, conn: conn}
	if !f.Agent {
		return t, nil
	}
	if t.session, err = guest.Connect(ctx, conn); err != nil {
		conn.Close()
		return nil, t.failed(ctx, err)
	}
	return t, nil
}

func (t *talk) close() {
	if t.session != nil {
		t.session.Close()
	}
	t.conn.Close()
}

// command has the guest execute /bin/true.
func (t *talk) command(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(commandTime, left(ctx)))
	defer cancel()
	if t.session != nil {
		r, err := guest.Client{Opener: t.session}.Run(ctx, guest.Exec{Argv: []string{"/bin/true"}})
		if err == nil && r.Exit.Code != 0 {
			err = fmt.Errorf("status %d", r.Exit.Code)
		}
		return t.failed(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { t.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b := []byte{0} // a byte asks for it, a byte comes back
	_, err := t.conn.Write(b)
	if err == nil {
		_, err = io.ReadFull(t.conn, b)
	}
	return t.failed(ctx, err)
}

// left is how long a context still lasts, if it has an end.
func left(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return time.Until(end)
}

func (t *talk) failed(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return api.Errorf(api.Unavailable, "have its guest execute a command: %w\n%s", err, t.vm.LastWords())
}
