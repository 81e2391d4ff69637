package fakehost

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
	"github.com/smolvm/smolvm/internal/guest/mux"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// guest is the machine's guest: it serves set-up, shutdown and the machine's own
// commands, and passes everything else on to an agent. (The agent's own set-up
// would change this host's clock and name.)
func (h *host) guest(conn net.Conn) {
	switch {
	case h.has("panic at boot"):
		h.machine.Load().Reset("kernel says:\x1b[31m no root")
		return
	case h.has("power off at boot"):
		h.machine.Load().PowerOff()
		return
	case h.has("silent after boot") && h.dials.Add(1) > 1:
		io.Copy(io.Discard, conn)
		return
	case h.has("mad after boot") && h.dials.Add(1) > 1:
		mux.Serve(context.Background(), conn, guest.Version, func(*mux.Stream) { conn.Close() })
		return
	}
	session, stop, err := hostAgent()
	if err != nil {
		fmt.Fprintln(os.Stderr, "host the agent:", err)
		return
	}
	defer stop()
	mux.Serve(context.Background(), conn, guest.Version, func(st *mux.Stream) { h.stream(st, session) })
}

// hostAgent runs an agent in this process.
func hostAgent() (*guest.Session, func(), error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	served := make(chan struct{})
	go func() {
		defer close(served)
		agent.Serve(context.Background(), far, agent.Options{})
	}()
	s, err := guest.Connect(context.Background(), near)
	if err != nil {
		return nil, nil, err
	}
	return s, func() {
		s.Close()
		<-served
		far.Close()
	}, nil
}

func (h *host) stream(st *mux.Stream, session *guest.Session) {
	_, first, err := st.Recv()
	if err != nil {
		return
	}
	op, req := guest.Op(first[0]), append(wire.Raw(nil), first[1:]...)
	reply := func(m wire.Message) {
		st.Send(uint8(guest.KindReply), wire.Marshal(m))
		st.CloseSend()
	}
	switch op {
	case guest.OpSetup:
		if h.has("stall setup") || h.has("fail setup") {
			os.WriteFile(filepath.Join(h.home, "reached"), nil, 0o600)
			if h.has("fail setup") {
				h.machine.Load().Crash()
				st.AwaitEnd()
				return
			}
			ended := make(chan struct{})
			go func() {
				st.AwaitEnd()
				close(ended)
			}()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for h.has("stall setup") {
				select {
				case <-tick.C:
				case <-ended:
					return
				}
			}
		}
		s := new(guest.Setup)
		wire.Unmarshal(req, s)
		h.setup.Store(s)
		reply(&guest.Ready{})
		return
	case guest.OpInfo:
		info := guest.Info{}
		if h.has("talk") {
			for range 1000 {
				info.BootMS = append(info.BootMS, strings.Repeat("\x1b[31m", 300))
			}
		}
		m := wire.Marshal(&info)
		for len(m) > guest.MaxPayload {
			st.Send(uint8(guest.KindMore), m[:guest.MaxPayload])
			m = m[guest.MaxPayload:]
		}
		st.Send(uint8(guest.KindReply), m)
		return
	case guest.OpShutdown:
		if h.has("stall shutdown") {
			os.WriteFile(filepath.Join(h.home, "reached"), nil, 0o600)
			st.AwaitEnd()
			return
		}
		reply(&guest.Empty{})
		h.machine.Load().PowerOff()
		return
	case guest.OpExec:
		var e guest.Exec
		if wire.Unmarshal(req, &e) == nil && len(e.Argv) > 0 {
			if h.command(e.Argv[0]) {
				return
			}
			if answer, ok := h.remember(e.Argv); ok {
				e.Argv = []string{"echo", answer}
				req = wire.Marshal(&e)
			}
		}
	}
	relay(st, session, op, req)
}

// command does what a guest can do to its machine.
func (h *host) command(name string) bool {
	m := h.machine.Load()
	switch name {
	case "poweroff":
		m.PowerOff()
	case "panic":
		m.Reset("kernel panic - not syncing")
	case "crash":
		m.Crash()
	case "hangup":
		m.HangUp()
	default:
		return false
	}
	return true
}

// What the guest keeps in its memory, away from what the driver uses.
const (
	counterAt = 1 << 20
	wordAt    = 2 << 20
	wordSize  = 4096
)

// remember does what a guest does with its memory and its disk, which a saved one
// takes along:
//
//	count            counts in memory
//	note WORD, noted in memory
//	put WORD, got    on the disk
//	who              tells what it was last told of itself
func (h *host) remember(argv []string) (string, bool) {
	m := h.machine.Load()
	word := m.Memory()[wordAt : wordAt+wordSize]
	switch argv[0] {
	case "count":
		m.Memory()[counterAt]++
		return strconv.Itoa(int(m.Memory()[counterAt])), true
	case "note":
		clear(word)
		return strconv.Itoa(copy(word, argv[1])), true
	case "noted":
		return strings.TrimRight(string(word), "\x00"), true
	case "put":
		f, err := os.OpenFile(m.Files(1)[0], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err.Error(), true
		}
		defer f.Close()
		_, err = fmt.Fprintf(f, "\nword:%s", argv[1])
		return fmt.Sprint(err), true
	case "got":
		for _, path := range m.Files(1) {
			b, err := os.ReadFile(path)
			if err != nil {
				return err.Error(), true
			}
			if i := bytes.LastIndex(b, []byte("\nword:")); i >= 0 {
				return string(b[i+len("\nword:"):]), true
			}
		}
		return "", true
	case "who":
		s := h.setup.Load()
		return fmt.Sprintf("%s machine=%s seed=%x resumed=%t copy=%t", s.Hostname, s.MachineID, s.Seed, s.Resumed, s.Copy), true
	}
	return "", false
}

func relay(st *mux.Stream, session *guest.Session, op guest.Op, req wire.Raw) {
	work, err := session.Open(context.Background(), op, req)
	if err != nil {
		return
	}
	defer work.Close()
	if op == guest.OpDial {
		relayDial(st, work)
		return
	}
	go func() { // the one below may be waiting for work that takes nothing
		st.AwaitEnd()
		work.Close()
	}()
	go func() {
		defer work.Close()
		for {
			k, p, err := st.Recv()
			if err == io.EOF {
				work.CloseSend()
				st.AwaitEnd()
				return
			}
			if err != nil || work.Send(guest.Kind(k), p) != nil {
				return
			}
		}
	}()
	for {
		m, err := work.Recv()
		if err != nil || st.Send(uint8(m.Kind), m.Payload) != nil {
			return
		}
	}
}

// relayDial passes a connection on, whose sides end each by itself.
func relayDial(st *mux.Stream, work guest.Stream) {
	go func() {
		for {
			k, p, err := st.Recv()
			if err == io.EOF {
				work.CloseSend()
				return
			}
			if err != nil || work.Send(guest.Kind(k), p) != nil {
				work.Close()
				return
			}
		}
	}()
	for {
		m, err := work.Recv()
		if err == io.EOF {
			st.CloseSend()
			st.AwaitEnd()
			return
		}
		if err != nil || st.Send(uint8(m.Kind), m.Payload) != nil {
			return
		}
	}
}
