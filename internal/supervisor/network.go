package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/network"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/vmm"
)

// wiring is the sandbox's end of its network card, and the network that serves it.
// Every machine has a card, so that all modes share templates and pools; in mode
// none nobody reads what it sends.
type wiring struct {
	changes sync.Mutex // held while the policy or the mode is changed

	mu    sync.Mutex
	wire  net.Conn         // while no network serves it
	net   *network.Network // nil: no network
	names []netstack.Pin   // what the guest believes of names that the next machine continues
	used  int64            // of the quota, by the networks before
}

// card is the network card of all guests. Wire is for the caller to set.
func card() *vmm.Network { return &vmm.Network{MAC: netstack.DefaultGuestMAC} }

// plugged returns a card and our end of its wire. The caller closes the card's own end when
// the machine has started.
func plugged() (*vmm.Network, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, api.Errorf(api.Unavailable, "make the wire of the network card: %w", os.NewSyscallError("socketpair", err))
	}
	ours := os.NewFile(uintptr(fds[0]), "wire")
	defer ours.Close() // FileConn has its own copy
	c := card()
	c.Wire = os.NewFile(uintptr(fds[1]), "wire of the machine")
	conn, err := net.FileConn(ours)
	if err != nil {
		c.Wire.Close()
		return nil, nil, api.Errorf(api.Unavailable, "make the wire of the network card: %w", err)
	}
	return c, conn, nil
}

// plug gives the next machine a card, in the place of the last machine's.
func (w *wiring) plug() (*vmm.Network, error) {
	c, conn, err := plugged()
	if err != nil {
		return nil, err
	}
	w.unplug()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wire = conn
	return c, nil
}

// unplug ends the network. It may be called again.
func (w *wiring) unplug() {
	w.mu.Lock()
	conn, n := w.wire, w.net
	w.wire, w.net = nil, nil
	w.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
	if n == nil {
		return
	}
	n.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used = n.Stats().Used // by flows that have all ended
}

// serve has a network serve the card, if none does.
func (w *wiring) serve(c network.Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wire == nil {
		return nil // it is served, or the machine has ended
	}
	c.Names, c.Used = w.names, w.used
	n, err := network.Start(w.wire, c)
	if err != nil {
		return api.Errorf(api.ClassOf(err), "start the sandbox's network: %w", err)
	}
	w.wire, w.net = nil, n
	return nil
}

// maxTold bounds what is kept of names with a saved guest: the ones asked for last.
const maxTold = 512

// told returns what the guest was told about names, for point.Manifest.
func (w *wiring) told() json.RawMessage {
	n := w.network()
	if n == nil {
		return nil
	}
	pins := n.Names()
	b, err := json.Marshal(pins[max(0, len(pins)-maxTold):])
	if err != nil || len(pins) == 0 {
		return nil
	}
	return b
}

// recall has the next network know what the guest believes that it continues, and
// what was used of its quota before this supervisor.
func (w *wiring) recall(from *point.Point, used int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used = max(w.used, used)
	w.names = nil
	if from == nil || !from.Full() || from.Names == nil {
		return
	}
	if err := json.Unmarshal(from.Names, &w.names); err != nil {
		slog.Warn("read the names that a saved guest was told", "err", err) // it asks again
	}
}

// keepUsed notes what was used of the quota, for the sandbox's next start.
func (s *Supervisor) keepUsed() {
	if s.record().Spec.Network.QuotaMiB == 0 {
		return
	}
	s.wiring.mu.Lock()
	used := s.wiring.used
	s.wiring.mu.Unlock()
	if err := s.change(func(r *control.Record) error { r.NetworkUsed = used; return nil }); err != nil {
		slog.Error("note what was used of the network's quota", "err", err)
	}
}

// network is the network that serves the card; nil: none does.
func (w *wiring) network() *network.Network {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.net
}

// serveNetwork serves the card as spec says.
func (s *Supervisor) serveNetwork(spec api.Network) error {
	if spec.Mode == api.NetworkNone {
		return nil
	}
	log, err := s.openRecord()
	if err != nil {
		return err // what is not recorded does not happen
	}
	return s.wiring.serve(network.Config{
		Sandbox: s.record().Spec.Name, Spec: spec, Owner: s.flowOwner, Log: log, Changed: s.keepPolicy, CA: s.authority(),
		Secrets: s.secrets,
	})
}

// keepPolicy keeps a policy that an answer has changed.
func (s *Supervisor) keepPolicy(p api.Policy) {
	err := s.change(func(r *control.Record) error {
		r.Spec.Network.Policy = &p
		return nil
	})
	if err != nil {
		slog.Error("keep the network's policy", "err", err)
	}
}

// guestNetwork is what the guest makes of its card.
func guestNetwork(spec api.Network) guest.Network {
	if spec.Mode == api.NetworkNone {
		return guest.Network{State: guest.NetworkDown, Gateways: []string{netstack.DefaultGateway4.String()}}
	}
	mac := netstack.DefaultGatewayMAC
	return guest.Network{
		State: guest.NetworkUp, MTU: netstack.DefaultMTU, GatewayMAC: mac[:],
		Addrs:    texts(netstack.DefaultGuest4, netstack.DefaultGuest6),
		Gateways: texts(netstack.DefaultGateway4, netstack.DefaultGateway6),
	}
}

func texts[T fmt.Stringer](list ...T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

// settle refuses what cannot be enforced, and puts the policy that the original's
// settings stand for in their place.
func settle(spec *api.Network) error {
	p, err := network.PolicyOf(*spec)
	if err == nil && spec.InternetSettings != nil {
		d := p.Document()
		spec.Policy, spec.InternetSettings = &d, nil
	}
	return err
}

// networkPolicy serves RouteNetwork.
func (s *Supervisor) networkPolicy(context.Context, struct{}) (api.Network, error) {
	return s.record().Spec.Network, nil
}

// setNetwork serves RouteSetNetwork: another mode or policy, from now on.
func (s *Supervisor) setNetwork(ctx context.Context, c api.NetworkChange) (api.Network, error) {
	s.wiring.changes.Lock()
	defer s.wiring.changes.Unlock()
	before := s.record().Spec.Network
	next, err := c.Apply(before)
	if err != nil {
		return before, err
	}
	if err := settle(&next); err != nil {
		return before, err
	}
	down := next.Mode == api.NetworkNone
	if st := s.gate.get().State; down != (before.Mode == api.NetworkNone) && st != api.StateRunning {
		return before, api.Errorf(api.Conflict, "change the network of sandbox %q: it is %s, and its guest has to bring its card up or down", s.record().Spec.Name, st).
			WithRecovery("Resume it first.")
	}
	if err := s.change(func(r *control.Record) error { r.Spec.Network = next; return nil }); err != nil {
		return before, err
	}
	if err := s.applyNetwork(ctx, next); err != nil {
		return next, api.Errorf(api.ClassOf(err), "change the network of sandbox %q: %w", s.record().Spec.Name, err)
	}
	return next, nil
}

// applyNetwork makes what spec says true of a sandbox that is up. What is forbidden
// is so at once, whatever the guest does.
func (s *Supervisor) applyNetwork(ctx context.Context, spec api.Network) error {
	p, err := network.PolicyOf(spec)
	if err != nil {
		return err
	}
	if s.wiring.network() == nil {
		if err := s.serveNetwork(spec); err != nil {
			return err
		}
	}
	// Also of one that is there since a moment: a boot may have begun it with the policy before.
	if n := s.wiring.network(); n != nil {
		n.SetPolicy(p)
	}
	if s.gate.get().State != api.StateRunning {
		return nil // the card stays as it is
	}
	s.trustAuthority(ctx)
	return guest.Client{Opener: s.session()}.SetNetwork(ctx, guestNetwork(spec))
}
