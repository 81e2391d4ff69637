package supervisor

import (
	"slices"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
)

// moves is the table of states: from each, the ones that may follow.
var moves = map[api.State][]api.State{
	api.StateCreating:   {api.StateRunning, api.StatePooled, api.StateHibernated, api.StateStopped, api.StateError},
	api.StatePooled:     {api.StateRunning, api.StateStopped, api.StateError},
	api.StateRunning:    {api.StatePaused, api.StateHibernated, api.StateStopped, api.StateError},
	api.StatePaused:     {api.StateRunning, api.StateHibernated, api.StateStopped, api.StateError},
	api.StateHibernated: {api.StateCreating},
	api.StateStopped:    {api.StateCreating},
	api.StateError:      {api.StateCreating},
}

// maxReason bounds a reason, in bytes: a guest may have written it.
const maxReason = 8 << 10

// gate holds the status of the sandbox. Every change goes through update, which
// checks the move and writes the file before anybody can see it.
type gate struct {
	path string
	mu   sync.Mutex
	st   control.Status
}

// openGate begins with the status of the last supervisor, or with a new one.
func openGate(path string, st control.Status) *gate { return &gate{path: path, st: st} }

// get returns the status as it is now.
func (g *gate) get() control.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.st
}

// update changes the status by f. A move that the table does not know is an
// error of class Conflict and changes nothing; so does an error of f.
func (g *gate) update(f func(*control.Status) error) (control.Status, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := g.st
	if err := f(&next); err != nil {
		return g.st, err
	}
	if next.State != g.st.State && !slices.Contains(moves[g.st.State], next.State) {
		return g.st, api.Errorf(api.Conflict, "sandbox is %s and cannot become %s", g.st.State, next.State)
	}
	if len(next.Reason) > maxReason {
		next.Reason = strings.ToValidUTF8(next.Reason[:maxReason], "")
	}
	if err := store.WriteJSON(g.path, next); err != nil {
		return g.st, api.Errorf(api.Internal, "write state: %w", err)
	}
	g.st = next
	return next, nil
}

// move is update for a bare change of state with its reason.
func (g *gate) move(to api.State, reason string) (control.Status, error) {
	return g.update(func(s *control.Status) error {
		s.State, s.Reason = to, reason
		return nil
	})
}
