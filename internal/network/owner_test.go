package network

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

func TestProcessesAreRecorded(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{Owner: owner}, w.Allow(world.WWW))
	if status, _, err := get(t, s.client(t, w.CA), w.URL(world.WWW, "/")); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	e := s.book.kind(t, api.EventFlow, api.PolicyAllow)
	if e.Process == nil || e.Process.PID != 7 {
		t.Errorf("allowed flow: %+v", e)
	}
	if _, _, err := get(t, s.client(t, w.CA), w.URL(world.Git, "/")); err == nil {
		t.Fatal("another name was found")
	}
	e = s.book.kind(t, api.EventDNS, api.PolicyDeny)
	if e.Process == nil || e.Process.PID != 7 || e.Process.Argv[1] != netstack.DefaultGateway4.String()+":53" {
		t.Errorf("denied question: %+v %+v", e, e.Process)
	}
	if _, err := s.dial(t, "tcp", "169.254.169.254:443"); err == nil {
		t.Fatal("connected")
	}
	e = s.book.kind(t, api.EventFlow, api.PolicyDeny)
	if e.Process == nil || e.Process.PID != 7 {
		t.Errorf("denied flow: %+v", e)
	}
}

// TestLookUpsAreBounded floods a guest that does not answer.
func TestLookUpsAreBounded(t *testing.T) {
	asked := 0
	o := newOwners(func(context.Context, netstack.Flow) (api.NetworkProcess, error) {
		asked++
		return api.NetworkProcess{}, errors.New("busy")
	})
	defer o.close()
	began := time.Now()
	for i := range 1000 {
		o.look(t.Context(), netstack.Flow{ID: uint64(i), Proto: netstack.TCP, Dst: guestPort(uint16(i))}, &o.denied)
	}
	if most := 21 + int(time.Since(began)/(200*time.Millisecond)); asked > most || asked < 20 {
		t.Errorf("the guest was asked %d times, at most %d were due", asked, most)
	}
	if n := len(o.known); n > maxOwners {
		t.Errorf("%d are kept", n)
	}
}

// TestWaitingEntriesAreBounded has a guest not say whose a flow is, and use it much.
func TestWaitingEntriesAreBounded(t *testing.T) {
	b := newBook()
	f := &flow{n: &Network{cfg: Config{Log: b}.withDefaults()}, holding: true}
	for range maxWaiting {
		f.write(api.NetworkEntry{Kind: api.EventHTTP})
	}
	if n := b.count(api.EventHTTP); n != 0 {
		t.Errorf("%d entries did not wait", n)
	}
	f.write(api.NetworkEntry{Kind: api.EventHTTP})
	if n := b.count(api.EventHTTP); n != maxWaiting+1 || len(f.held) != 0 {
		t.Errorf("%d entries are recorded, %d wait", n, len(f.held))
	}
}

// TestCommandLinesAreBounded has the agent of a guest be the guest's own.
func TestCommandLinesAreBounded(t *testing.T) {
	for what, argv := range map[string][]string{
		"long": {"sh", strings.Repeat("x", 4<<20), "last"},
		"many": strings.Split(strings.Repeat("a,", 1<<20), ","),
		"none": make([]string, 1<<20),
	} {
		o := newOwners(func(context.Context, netstack.Flow) (api.NetworkProcess, error) {
			return api.NetworkProcess{PID: 7, Argv: argv}, nil
		})
		p := o.ask(t.Context(), netstack.Flow{})
		if p == nil || p.PID != 7 || len(strings.Join(p.Argv, " ")) > maxArgv+1 || len(p.Argv) > maxArgv || p.Argv[0] != argv[0] {
			t.Errorf("%s: %d arguments of %d bytes", what, len(p.Argv), len(strings.Join(p.Argv, " ")))
		}
		o.close()
	}
}
