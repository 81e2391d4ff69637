package smolvm_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds a wait in a test: far above what any takes, also under
// emulation on busy cores.
const patience = 2 * time.Minute

// lockedBuffer collects output and tells when a text has come.
type lockedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *lockedBuffer) await(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		have := strings.Contains(l.b.String(), text)
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		if have {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("%q did not come; %q did", text, l.String())
		}
	}
}

// eventually waits for something of another process that tells nobody when it
// happens.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}
