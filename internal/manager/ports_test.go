package manager_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// server listens for the guest, which is this host, and greets who comes.
func (l *life) server() (guestPort int) {
	l.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	l.ok(err)
	l.Cleanup(func() { s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "hello %s", b)
			}()
		}
	}()
	return s.Addr().(*net.TCPAddr).Port
}

// greeted connects to a port of the host and reports whether the server answers.
func greeted(p api.Port) error {
	c, err := net.DialTimeout("tcp", address(p), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "client")
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "hello client" {
		err = fmt.Errorf("the server said %q", b)
	}
	return err
}

func address(p api.Port) string {
	return net.JoinHostPort(p.WithDefaults().HostIP, strconv.Itoa(p.HostPort))
}

// free checks that nobody has a port.
func (l *life) free(p api.Port) {
	l.Helper()
	s, err := net.Listen("tcp", address(p))
	if err != nil {
		l.Error(err)
		return
	}
	s.Close()
}

// port is the only port of a sandbox.
func (l *life) port(sb *smolvm.Sandbox) api.Port {
	l.Helper()
	list, err := sb.Ports(l.ctx)
	if err != nil || len(list) != 1 {
		l.Fatalf("%v, %v", list, err)
	}
	return list[0]
}

// listen takes a port below those that the kernel hands out, so that nobody else gets
// it where the test gives it back.
func (l *life) listen() net.Listener {
	l.Helper()
	for range 100 {
		taken, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(10000+rand.IntN(20000)))
		if err == nil {
			return taken
		}
	}
	l.Fatal("no port is free")
	return nil
}

var portLaws = []law{
	{"they are there while it runs, and whenever it runs again", func(l *life) {
		low := l.listen()
		low.Close()
		sb := l.create(smolvm.Spec{Ports: []api.Port{{HostPort: low.Addr().(*net.TCPAddr).Port, GuestPort: l.server(), Picked: true}}})
		p := l.port(sb)
		if p.HostPort == 0 || !p.Picked || p.HostIP != "127.0.0.1" || p.Proto != "tcp" {
			l.Fatalf("%+v", p)
		}
		again := func(what string) {
			l.Helper()
			if q := l.port(sb); q != p {
				l.Errorf("%s: %+v became %+v", what, p, q)
			}
			if err := greeted(p); err != nil {
				l.Errorf("%s: %v", what, err)
			}
		}
		again("create")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.free(p)
		l.ok(sb.Start(l.ctx))
		again("start")
		l.hibernate(sb)
		l.free(p)
		l.says(sb, "echo awake", "awake")
		again("wake")
		step := l.checkpoint(sb, "here")
		l.ok(sb.Rewind(l.ctx, step.Step))
		again("rewind")
		l.kill(sb)
		l.free(p)
		l.ok(sb.Start(l.ctx))
		again("start after a crash")
		l.ok(sb.Remove(l.ctx))
		l.free(p)
	}},
	{"added and removed at any time", func(l *life) {
		sb := l.create(smolvm.Spec{})
		one, err := sb.Expose(l.ctx, api.Port{GuestPort: l.server()})
		l.ok(err)
		l.ok(greeted(one))
		two, err := sb.Expose(l.ctx, api.Port{GuestPort: one.GuestPort, HostIP: "127.0.0.2"})
		l.ok(err)
		l.ok(greeted(two))
		_, err = sb.Expose(l.ctx, one)
		l.refused(err, api.ErrConflict, api.CodePortTaken, "another port")
		removed, err := sb.Unexpose(l.ctx, api.Port{HostPort: one.HostPort, HostIP: one.HostIP})
		if err != nil || len(removed) != 1 || removed[0] != one {
			l.Errorf("%v, %v", removed, err)
		}
		l.free(one)
		_, err = sb.Unexpose(l.ctx, one)
		l.refused(err, api.ErrNotFound, "", "port ls")
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		three, err := sb.Expose(l.ctx, api.Port{GuestPort: one.GuestPort})
		if err != nil || three.HostPort != 0 {
			l.Errorf("%+v, %v", three, err)
		}
		removed, err = sb.Unexpose(l.ctx, api.Port{HostIP: "127.0.0.2"})
		if err != nil || len(removed) != 1 {
			l.Errorf("%v, %v", removed, err)
		}
		l.ok(sb.Start(l.ctx))
		l.ok(greeted(l.port(sb)))
		_, err = sb.Expose(l.ctx, api.Port{GuestPort: 70000})
		l.fails(err, api.ErrInvalid)
	}},
	{"a port that is taken is a conflict", func(l *life) {
		taken := l.listen()
		defer taken.Close()
		p := api.Port{HostPort: taken.Addr().(*net.TCPAddr).Port, GuestPort: l.server()}
		number := strconv.Itoa(p.HostPort)
		_, err := l.Create(l.ctx, smolvm.Spec{Ports: []api.Port{{GuestPort: p.GuestPort}, p}})
		l.refused(err, api.ErrConflict, api.CodePortTaken, "0:", number)
		l.alone()
		sb := l.create(smolvm.Spec{})
		_, err = sb.Expose(l.ctx, p)
		l.refused(err, api.ErrConflict, api.CodePortTaken, "0:", number)
		if list, err := sb.Ports(l.ctx); err != nil || len(list) != 0 {
			l.Errorf("%v, %v", list, err)
		}
		taken.Close()
		_, err = sb.Expose(l.ctx, p)
		l.ok(err)
		// Of two sandboxes the first has it.
		_, err = l.Create(l.ctx, smolvm.Spec{Ports: []api.Port{p}})
		l.refused(err, api.ErrConflict, api.CodePortTaken, "0:", number)
		// One that sleeps finds it taken, says so and sleeps on.
		l.hibernate(sb)
		taken, err = net.Listen("tcp", address(p))
		l.ok(err)
		_, err = sb.Run(l.ctx, smolvm.ShellCommand("true"))
		l.refused(err, api.ErrConflict, api.CodePortTaken, "0:", number)
		l.is(sb, api.StateHibernated, number)
		taken.Close()
		l.says(sb, "echo awake", "awake")
		l.ok(greeted(p))
		// One that was picked gives way.
		other := l.create(smolvm.Spec{Ports: []api.Port{{GuestPort: p.GuestPort}}})
		picked := l.port(other)
		l.ok(other.Stop(l.ctx, smolvm.StopOptions{}))
		taken, err = net.Listen("tcp", address(picked))
		l.ok(err)
		defer taken.Close()
		l.ok(other.Start(l.ctx))
		if now := l.port(other); now.HostPort == picked.HostPort {
			l.Errorf("%+v", now)
		}
		l.ok(greeted(l.port(other)))
	}},
	{"taken from a pool", func(l *life) {
		l.pool(smolvm.Pool{Size: 1})
		sb := l.claimed(smolvm.Spec{Ports: []api.Port{{GuestPort: l.server()}}})
		p := l.port(sb)
		l.ok(greeted(p))
		l.full(1)
		_, err := l.Create(l.ctx, smolvm.Spec{Ports: []api.Port{{HostPort: p.HostPort, GuestPort: 1}}})
		l.refused(err, api.ErrConflict, api.CodePortTaken, "0:")
		l.claimed(smolvm.Spec{}) // who could not be taken for that waits on
	}},
	{"children have ports of their own", func(l *life) {
		sb := l.create(smolvm.Spec{Ports: []api.Port{{GuestPort: l.server()}}})
		p := l.port(sb)
		for _, child := range l.fork(sb, smolvm.ForkOptions{N: 2}) {
			q := l.port(child)
			if q.HostPort == p.HostPort || q.GuestPort != p.GuestPort {
				l.Errorf("%+v", q)
			}
			l.ok(greeted(q))
		}
		l.ok(greeted(p))
	}},
	{"paused, it takes none", func(l *life) {
		sb := l.create(smolvm.Spec{Ports: []api.Port{{GuestPort: l.server()}}})
		p := l.port(sb)
		l.ok(sb.Pause(l.ctx))
		if err := greeted(p); err == nil || !strings.Contains(err.Error(), "reset") {
			l.Errorf("%v", err)
		}
		l.ok(sb.Resume(l.ctx))
		l.ok(greeted(p))
	}},
	{"who comes while it comes up waits", func(l *life) {
		l.create(smolvm.Spec{}) // the template
		free := l.listen()
		p := api.Port{HostPort: free.Addr().(*net.TCPAddr).Port, GuestPort: l.server()}
		free.Close()
		l.faults("stall setup")
		os.Remove(filepath.Join(l.Home, "reached"))
		made := async(func() error { _, err := l.Create(l.ctx, smolvm.Spec{Ports: []api.Port{p}}); return err })
		l.reached()
		answered := async(func() error { return greeted(p) })
		l.faults()
		l.ok(<-made)
		l.ok(<-answered)
	}},
	{"a connection keeps it from being idle", func(l *life) {
		block := make(chan struct{})
		s, err := net.Listen("tcp", "127.0.0.1:0")
		l.ok(err)
		defer s.Close()
		go func() {
			if c, err := s.Accept(); err == nil {
				<-block
				c.Close()
			}
		}()
		sb := l.create(smolvm.Spec{IdleTimeoutSeconds: 0.5, Ports: []api.Port{{GuestPort: s.Addr().(*net.TCPAddr).Port}}})
		c, err := net.Dial("tcp", address(l.port(sb)))
		l.ok(err)
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Second)) // twice the timeout
		if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
			l.Errorf("its connection ended: %v", err)
		}
		l.is(sb, api.StateRunning, "")
		close(block)
		c.Close()
		l.eventually("it stops", func() bool {
			info, err := sb.Info(l.ctx)
			return err == nil && info.State == api.StateStopped
		})
	}},
	{"who came by them is in the record, without a network too", func(l *life) {
		here := l.server()
		sb := l.create(smolvm.Spec{Network: api.Network{Mode: api.NetworkNone}, Ports: []api.Port{{GuestPort: here}}})
		l.ok(greeted(l.port(sb)))
		var came []smolvm.NetworkEntry
		l.ok(sb.NetworkLog(l.ctx, smolvm.NetworkLogOptions{}, func(e smolvm.NetworkEntry) error {
			came = append(came, e)
			return nil
		}))
		if len(came) != 1 || came[0].Kind != api.EventPort || came[0].Port != here || came[0].Address != "127.0.0.1" || came[0].Verdict != api.PolicyAllow {
			l.Errorf("%+v", came)
		}
	}},
	{"what cannot be a port is refused", func(l *life) {
		for _, p := range []api.Port{{}, {GuestPort: 1, Proto: "icmp"}, {GuestPort: 1, HostIP: "localhost"}, {GuestPort: 1, HostPort: -1}} {
			_, err := l.Create(l.ctx, smolvm.Spec{Ports: []api.Port{p}})
			l.fails(err, api.ErrInvalid)
		}
		_, err := l.Create(l.ctx, smolvm.Spec{Ports: []api.Port{{GuestPort: 1, HostIP: "192.0.2.1"}}})
		l.fails(err, api.ErrUnavailable, "192.0.2.1")
		l.alone()
	}},
}

func TestPortLaws(t *testing.T) { hold(t, portLaws) }
