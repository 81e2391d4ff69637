package supervisor

import (
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
)

func TestGateKnowsOnlyTheMovesOfItsTable(t *testing.T) {
	for _, from := range api.States() {
		for _, to := range api.States() {
			path := filepath.Join(t.TempDir(), "state.json")
			g := openGate(path, control.Status{State: from})
			_, err := g.move(to, "because")
			allowed := from == to || slices.Contains(moves[from], to)
			if allowed != (err == nil) {
				t.Errorf("%s to %s: %v", from, to, err)
			}
			if !allowed && (!errors.Is(err, api.ErrConflict) || g.get().State != from) {
				t.Errorf("%s to %s: %v, and the state is %s", from, to, err, g.get().State)
			}
			var st control.Status
			if err := store.ReadJSON(path, &st); allowed && (err != nil || !reflect.DeepEqual(st, g.get())) {
				t.Errorf("%s to %s: the file says %v, %v", from, to, st, err)
			}
		}
	}
}

func TestGateThatCannotWriteDoesNotMove(t *testing.T) {
	g := openGate(filepath.Join(t.TempDir(), "missing", "state.json"), control.Status{State: api.StateRunning})
	if _, err := g.move(api.StatePaused, ""); err == nil || g.get().State != api.StateRunning {
		t.Fatalf("moved to %s, %v", g.get().State, err)
	}
}

func TestIdleFiresOnlyWhenNobodyIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdle(time.Minute)
		defer i.stop()
		end, _ := i.begin()
		time.Sleep(time.Hour)
		select {
		case <-i.fired:
			t.Fatal("fired while in use")
		default:
		}
		end()
		end() // a second call does nothing
		start := time.Now()
		<-i.fired
		if d := time.Since(start); d != time.Minute || !i.quiet() {
			t.Fatalf("fired after %v, quiet %v", d, i.quiet())
		}
	})
}

func TestMergeEnvLetsLaterListsWin(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=1"}, []string{"B=2=3"}, []string{"C="})
	if want := []string{"A=1", "B=2=3", "C="}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestIdleForgetsWhatFiredBeforeTheLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdle(time.Minute)
		defer i.stop()
		time.Sleep(time.Minute)
		synctest.Wait() // it has fired, and nobody has looked yet
		end, _ := i.begin()
		end() // somebody has come and gone
		if <-i.fired; i.quiet() {
			t.Fatal("quiet right after a use")
		}
		if <-i.fired; !i.quiet() {
			t.Fatal("not quiet a minute later")
		}
		if _, ok := i.begin(); ok {
			t.Fatal("somebody came after it was found quiet")
		}
		i.allow()
		if _, ok := i.begin(); !ok {
			t.Fatal("nobody may come any more")
		}
	})
}

func TestBreaksAreBoundedInTimeOnly(t *testing.T) {
	var b breaks
	now := time.Now()
	for i := range maxBreaks {
		if !b.allow(now) {
			t.Fatalf("break %d is refused", i)
		}
	}
	if b.allow(now) {
		t.Fatal("one more is allowed")
	}
	if !b.allow(now.Add(2 * breakTime)) {
		t.Fatal("refused long after")
	}
}

func TestTimeToLiveLooksAtTheClockAgain(t *testing.T) {
	for _, tt := range []struct {
		at   time.Time
		most time.Duration
	}{
		{time.Now().Add(time.Hour), lookAgain},
		{time.Now().Add(time.Second), time.Second},
		{time.Now().Add(-time.Hour), 0},
	} {
		if d := untilLook(tt.at); d > tt.most {
			t.Errorf("%v: %v", tt.at, d)
		}
	}
	if d := untilLook(time.Time{}); d < 1000*time.Hour {
		t.Errorf("never: %v", d)
	}
}
