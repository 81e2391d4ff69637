package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
)

// bindTCP listens, and serves what comes.
func (f *port) bindTCP(network, addr string) error {
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	f.HostPort = l.Addr().(*net.TCPAddr).Port
	f.close = l.Close
	f.work.Go(func() { f.accept(l.(*net.TCPListener)) })
	return nil
}

// acceptAgain is how long to wait after Accept has failed: for want of
// descriptors, which connections that end give back.
const acceptAgain = 50 * time.Millisecond

func (f *port) accept(l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			slog.Warn("accept at forwarded port", "port", f.Port.String(), "err", err)
			select {
			case <-f.ctx.Done():
				return
			case <-time.After(acceptAgain):
				continue
			}
		}
		if !f.take() { // others wait in the kernel's queue meanwhile
			reset(conn)
			return
		}
		f.work.Go(func() {
			defer f.give()
			f.connection(conn)
		})
	}
}

// connection serves one connection.
func (f *port) connection(conn *net.TCPConn) {
	peer, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	flow, err := f.dial(f.ctx, peer)
	if err != nil {
		slog.Debug("forward a connection", "port", f.Port.String(), "err", err)
		reset(conn)
		return
	}
	relay(f.ctx, conn, flow)
}

// relay passes bytes both ways until both sides have ended or one is lost, and
// closes both.
func relay(ctx context.Context, conn *net.TCPConn, flow Flow) {
	r := &tcpRelay{conn: conn, flow: flow}
	var look *time.Timer
	look = time.AfterFunc(lookTime, func() {
		if r.lost() {
			r.abort()
			return
		}
		look.Reset(lookTime)
	})
	defer look.Stop()
	defer context.AfterFunc(ctx, r.abort)()
	forth := make(chan struct{})
	go func() {
		defer close(forth)
		r.forth()
	}()
	r.back()
	<-forth
	flow.Close()
	conn.Close()
}

// tcpRelay is one connection under way.
type tcpRelay struct {
	conn *net.TCPConn
	flow Flow
	// waits is since when the server has ended and the client been silent, in
	// nanoseconds since 1970; zero: it has not ended.
	waits atomic.Int64
}

// abort resets both sides. Whoever reads or writes one of them then ends.
func (r *tcpRelay) abort() {
	reset(r.conn)
	r.flow.Close()
}

func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// lookTime is how often a connection is looked at: a client that has gone shows at
// reads and writes, and there may be none while a server takes nothing.
const lookTime = 30 * time.Second

// lost reports whether a connection is of no use any more.
func (r *tcpRelay) lost() bool {
	rc, err := r.conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = rc.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err != nil || info.State == unix.BPF_TCP_CLOSE
	})
	waits := r.waits.Load()
	return err != nil || gone || waits != 0 && time.Since(time.Unix(0, waits)) > halfTime
}

// forth passes what the client sends.
func (r *tcpRelay) forth() {
	buf := make([]byte, guest.MaxPayload)
	for {
		n, err := r.conn.Read(buf)
		if n > 0 {
			if _, err := r.flow.Write(buf[:n]); err != nil {
				return // back learns why
			}
			if r.waits.Load() != 0 {
				r.waits.Store(time.Now().UnixNano())
			}
		}
		if err == io.EOF {
			r.flow.CloseSend()
			return
		}
		if err != nil {
			r.abort()
			return
		}
	}
}

// back passes what the server sends.
func (r *tcpRelay) back() {
	for {
		p, err := r.flow.Recv()
		if err == io.EOF {
			r.waits.Store(time.Now().UnixNano())
			r.conn.CloseWrite()
			return
		}
		if err == nil {
			_, err = r.conn.Write(p)
		}
		if err != nil {
			r.abort()
			return
		}
	}
}
