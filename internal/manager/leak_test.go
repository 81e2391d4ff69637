package manager_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/testenv"
)

// TestVMCyclesLeakNothing creates, uses and removes 500 sandboxes, of a template, a
// pool, a fork and a snapshot in turn. Their machines are fake, but it takes as long
// as a test with real ones. Nothing piles up: no descriptor, goroutine or memory
// here, no process, no file.
func TestVMCyclesLeakNothing(t *testing.T) {
	l := newLife(t)
	const cycles, warm = 500, 50
	var cancel context.CancelFunc
	l.ctx, cancel = context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	source := l.create(smolvm.Spec{MemoryMiB: 256})
	l.snapshot(source, "s")
	l.pool(smolvm.Pool{Size: 1})
	var base usage
	work := make(chan int)
	var done sync.WaitGroup
	for range 2 {
		done.Go(func() {
			for i := range work {
				l.cycle(i, source)
			}
		})
	}
	for i := range cycles {
		if i == warm {
			l.eventually("the first ones are gone", func() bool { return l.sandboxes() == 2 })
			l.full(1) // a member that is half made has fewer files
			base = l.usage()
		}
		work <- i
	}
	close(work)
	done.Wait()
	l.full(1)
	l.eventually("sandboxes are gone", func() bool { return l.sandboxes() == 2 })
	l.eventually("what they used here is given back", func() bool {
		now := l.usage()
		return now.fds <= base.fds+2 && now.goroutines <= base.goroutines+4
	})
	if now := l.usage(); now.processes > base.processes || now.files > base.files || now.heap > base.heap+(4<<20) {
		t.Errorf("after %d cycles %+v, after %d %+v", cycles, now, warm, base)
	}
}

func (l *life) cycle(i int, source *smolvm.Sandbox) {
	var sb *smolvm.Sandbox
	var err error
	switch i % 4 {
	case 0:
		sb, err = l.Create(l.ctx, smolvm.Spec{MemoryMiB: 256})
	case 1:
		sb, err = l.Create(l.ctx, smolvm.Spec{Ephemeral: i%8 == 1})
	case 2:
		var children []*smolvm.Sandbox
		if children, err = source.Fork(l.ctx, smolvm.ForkOptions{}); err == nil {
			sb = children[0]
		}
	case 3:
		sb, err = l.Create(l.ctx, smolvm.Spec{FromSnapshot: "s"})
	}
	if err == nil {
		_, err = sb.Run(l.ctx, smolvm.Command{Argv: []string{"count"}})
	}
	if err == nil {
		err = sb.Remove(l.ctx)
	}
	if err != nil {
		l.Errorf("cycle %d: %v", i, err)
	}
}

type usage struct {
	fds, goroutines, processes, files int
	heap                              uint64
}

func (l *life) usage() usage {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return usage{descriptors(), runtime.NumGoroutine(), len(testenv.Processes(l.Home)), len(testenv.Files(l.Home)), m.HeapAlloc}
}

// sandboxes is how many there are with the waiting ones.
func (l *life) sandboxes() int {
	entries, _ := os.ReadDir(filepath.Join(l.Home, "sandboxes"))
	tmp, _ := os.ReadDir(filepath.Join(l.Home, "tmp"))
	return len(entries) + len(tmp)
}
