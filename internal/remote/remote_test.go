package remote

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/sockpath"
)

func TestForeign(t *testing.T) {
	for _, c := range []struct {
		uid, self int
		want      bool
	}{{1000, 1000, false}, {0, 1000, false}, {1001, 1000, true}, {1000, 0, true}, {0, 0, false}} {
		if got := foreign(c.uid, c.self); got != c.want {
			t.Errorf("user %d for user %d: %v", c.uid, c.self, got)
		}
	}
}

func TestDialSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := sockpath.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := dialSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uid, err := sockpath.PeerUID(conn); err != nil || uid != os.Geteuid() {
		t.Errorf("user %d, %v", uid, err)
	}
}
