package supervisor

import (
	"context"
	"log/slog"
	"sync"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/intercept"
)

// trust is the sandbox's certificate authority, in whose name TLS is opened, and
// what its guest knows of it.
type trust struct {
	mu  sync.Mutex
	ca  *intercept.CA
	env []string // by which programs find it; empty: the guest was not told
}

// authority returns the sandbox's authority, which is made when it first signs.
func (s *Supervisor) authority() *intercept.CA {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	if s.trust.ca == nil {
		s.trust.ca = intercept.NewCA(s.dir.CA())
	}
	return s.trust.ca
}

// trustAuthority has the guest trust the authority, where the network may open TLS.
// A guest that cannot still runs: what is opened then fails, and says why.
func (s *Supervisor) trustAuthority(ctx context.Context) {
	n := s.wiring.network()
	if n == nil || !n.Intercepts() {
		return
	}
	env, notes, err := s.authority().Install(ctx, guest.Client{Opener: s.session()})
	for _, note := range notes {
		slog.Warn("have the guest trust the sandbox's authority", "failed", note)
	}
	if err != nil {
		slog.Error("have the guest trust the sandbox's authority", "err", err)
		return
	}
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	s.trust.env = env
}

// environment returns the variables by which programs find the authority.
func (t *trust) environment() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.env
}
