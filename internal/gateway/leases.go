package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/undo"
)

// Bounds of leases.
const (
	maxLeases = 1000
	leaseBeat = 15 * time.Second // between empty lines: shorter than what proxies and routers forget
)

// leases are the open connections that ephemeral sandboxes depend on.
type leases struct {
	mu   sync.Mutex
	open map[string]*lease
}

type lease struct {
	caller string
	ended  bool
	boxes  []*smolvm.Sandbox
}

func (s *Server) leaseRoutes() {
	stream(s, op{
		ID: "open-lease", Method: http.MethodPost, Path: "/v1/leases", Scope: apikey.Manage, Tag: tagSandboxes,
		Summary: "Open a lease for ephemeral sandboxes", Status: http.StatusCreated,
		Details: "The first line of the answer is the lease; then an empty line comes each 15 seconds. Sandboxes that are made " +
			"with ephemeral and the header " + api.HeaderLease + " are removed when this connection ends, however it ends.",
		Answers: map[string]*huma.Schema{typeNDJSON: schemaOf[api.Lease](s)},
	}, s.openLease)
}

func (s *Server) openLease(_ *struct{}, w http.ResponseWriter, r *http.Request) error {
	id, err := s.leases.begin(exchangeOf(r.Context()).caller.name)
	if err != nil {
		return err
	}
	defer s.endLease(id)
	w.Header().Set("Content-Type", typeNDJSON)
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(api.Lease{ID: id}); err != nil {
		return err
	}
	beat := time.NewTicker(leaseBeat)
	defer beat.Stop()
	for rc := http.NewResponseController(w); ; {
		if err := rc.Flush(); err != nil {
			return nil
		}
		select {
		case <-beat.C:
			rc.SetWriteDeadline(time.Now().Add(leaseBeat)) // one that does not read is gone
			if _, err := io.WriteString(w, "\n"); err != nil {
				return nil
			}
		case <-r.Context().Done():
			return nil
		}
	}
}

func (l *leases) begin(caller string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= maxLeases {
		return "", api.Errorf(api.Exhausted, "open lease: there are %d already", len(l.open))
	}
	if l.open == nil {
		l.open = map[string]*lease{}
	}
	id := "l-" + strings.ToLower(rand.Text())
	l.open[id] = &lease{caller: caller}
	return id, nil
}

// find returns the caller's lease of that id.
func (l *leases) find(id, caller string) (*lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.open[id]; found != nil && found.caller == caller {
		return found, nil
	}
	return nil, api.Errorf(api.NotFound, "lease %.80q is not open", id).WithCode("lease").
		WithRecovery("Open one with POST /v1/leases, and keep that answer open.")
}

// leaseFor returns the lease that a request to make sandboxes must have: one where
// they are ephemeral, none (nil) where not.
func (s *Server) leaseFor(ctx context.Context, id string, ephemeral bool) (*lease, error) {
	switch {
	case ephemeral && id == "":
		return nil, api.Errorf(api.Invalid, "an ephemeral sandbox needs a lease").WithCode("lease").
			WithRecovery("Open one with POST /v1/leases, and name it in the header %s.", api.HeaderLease)
	case !ephemeral && id == "":
		return nil, nil
	case !ephemeral:
		return nil, api.Errorf(api.Invalid, "a lease is for ephemeral sandboxes alone").WithCode("lease").
			WithRecovery("Set ephemeral, or leave the header %s out.", api.HeaderLease)
	}
	return s.leases.find(id, exchangeOf(ctx).caller.name)
}

// keep ties sandboxes that were just made to a lease (nil: to none) and describes
// them. Where it cannot, or their maker has gone meanwhile, they are removed: nobody
// would know of them.
func (s *Server) keep(ctx context.Context, l *lease, boxes ...*smolvm.Sandbox) ([]api.Sandbox, error) {
	err := s.hold(l, boxes)
	list := make([]api.Sandbox, len(boxes))
	for i, b := range boxes {
		if err == nil {
			list[i], err = b.Info(ctx)
		}
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.removeAll(ctx, boxes)
		return nil, err
	}
	return list, nil
}

func (s *Server) hold(l *lease, boxes []*smolvm.Sandbox) error {
	if l == nil {
		return nil
	}
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if l.ended {
		return api.Errorf(api.Unavailable, "the lease has ended").WithCode("lease")
	}
	for _, b := range boxes {
		s.leases.drop(b.ID()) // one that is started again changes hands
		l.boxes = append(l.boxes, b)
	}
	return nil
}

// drop takes a sandbox from the lease that it is on, if it is on one. The caller
// holds the lock.
func (l *leases) drop(id string) {
	for _, open := range l.open {
		open.boxes = slices.DeleteFunc(open.boxes, func(b *smolvm.Sandbox) bool { return b.ID() == id })
	}
}

// forget drops a sandbox that was removed: a lease may be open for as long as its
// client works, and make thousands.
func (l *leases) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(id)
}

// endLease removes the sandboxes of a lease.
func (s *Server) endLease(id string) {
	s.leases.mu.Lock()
	l := s.leases.open[id]
	delete(s.leases.open, id)
	l.ended = true
	boxes := l.boxes
	s.leases.mu.Unlock()
	s.removeAll(context.Background(), boxes)
}

func (s *Server) removeAll(ctx context.Context, boxes []*smolvm.Sandbox) {
	ctx, cancel := undo.Context(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for _, b := range boxes {
		wg.Go(func() {
			if err := b.Remove(ctx); err != nil && !errors.Is(err, api.ErrNotFound) {
				s.log.Error("remove sandbox of a lease", "sandbox", b.ID(), "error", err)
			}
		})
	}
	wg.Wait()
}

func (l *leases) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// held counts the sandboxes on all leases.
func (l *leases) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, open := range l.open {
		n += len(open.boxes)
	}
	return n
}
