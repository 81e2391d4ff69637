package manager_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/sockpath"
)

// newFarLife is newLife whose client is behind a gateway.
func newFarLife(t *testing.T) *life {
	t.Helper()
	l := newLife(t)
	socket := filepath.Join(t.TempDir(), "api.sock")
	listener, err := sockpath.Listen(socket)
	l.ok(err)
	g := gateway.New(gateway.Options{Client: l.Client})
	ctx, cancel := context.WithCancel(context.Background())
	served := async(func() error { return g.Serve(ctx, listener) })
	t.Cleanup(func() {
		l.BaseURL = "" // what is left the manager removes
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	l.BaseURL = "unix://" + socket
	return l
}

// notFar are the laws about what is not a far client's.
var notFar = map[string]string{
	"the budget removes what was not used for longest": "the budget is the gateway's",
	"idle stop":                  "its 300 ms are no time for several requests on a busy machine",
	"cancelled while it is read": "the gateway cleans up after the call",
}

// TestLawsBehindAGateway holds the laws to the other way of the SDK: the same errors,
// the same order, and nothing left.
func TestLawsBehindAGateway(t *testing.T) {
	for _, laws := range [][]law{
		laws, hibernateLaws, forkLaws, historyLaws, snapshotLaws, carryLaws, templateLaws, poolLaws, portLaws, networkLaws, secretLaws, watchLaws,
	} {
		for _, law := range laws {
			if _, not := notFar[law.name]; not {
				continue
			}
			t.Run(law.name, func(t *testing.T) {
				t.Parallel()
				law.law(newFarLife(t))
			})
		}
	}
}
