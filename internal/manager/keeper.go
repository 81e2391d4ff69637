package manager

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/store"
)

// The keeper is a process that keeps pools full. There is none while there is no
// pool, and at most one for a state directory. It makes one member after another,
// and rests as long as the last one took: so that refilling takes at most about one
// processor for half of the time, and clients find the others free.
//
// It remembers the sizes of the pools in a file. When it dies its waiting members
// end; the next client that asks for a pool starts another.
type keeper struct {
	m    *Manager
	wake chan struct{} // has room for one: something changed
	over context.Context
	end  context.CancelFunc

	mu    sync.Mutex
	pools map[string]*pool // by control.PoolKey
	kept  bool             // there was a pool
}

// pool is one pool of the keeper.
type pool struct {
	api.Pool
	members map[string]io.Closer // lifelines by id; nil: it was told to end
}

// ready is how many members wait.
func (p *pool) ready() (n int) {
	for _, lifeline := range p.members {
		if lifeline != nil {
			n++
		}
	}
	return n
}

// Keep is the keeper's process. It returns when the last pool is drained, or at
// once where another keeper lives.
func (m *Manager) Keep(ctx context.Context) error {
	l, err := store.TryLock(m.store.KeeperLock())
	if errors.Is(err, api.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Unlock()
	k := &keeper{m: m, wake: make(chan struct{}, 1), pools: map[string]*pool{}}
	k.over, k.end = context.WithCancel(ctx)
	defer k.end()
	sizes, err := m.poolSizes()
	if err != nil {
		return err
	}
	for _, p := range sizes {
		k.pools[control.PoolKey(poolSpec(p))] = &pool{Pool: p, members: map[string]io.Closer{}}
		k.kept = true
	}
	os.Remove(m.store.Keeper()) // of a dead keeper: the lock is ours
	sock, err := sockpath.Listen(m.store.Keeper())
	if err != nil {
		return err
	}
	server := http.Server{Handler: k.routes(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(sock)
	}()
	k.fill()
	bye, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	server.Shutdown(bye)
	<-served
	os.Remove(m.store.Keeper())
	if ctx.Err() == nil && len(k.pools) > 0 {
		// Somebody set one after the decision to end. The next keeper reads of it.
		l.Unlock()
		return m.startKeeper()
	}
	return nil
}

// idleTime is how long a keeper without a pool waits for one: it was started by a
// client that is about to say which.
const idleTime = 2 * time.Second

// fill makes members until there is no pool any more.
func (k *keeper) fill() {
	rest := time.Duration(0)
	for {
		select {
		case <-time.After(rest):
		case <-k.over.Done():
			return
		}
		rest = 0
		spec, key := k.short()
		if key == "" {
			if !k.pause() {
				return
			}
			continue
		}
		t := time.Now()
		if err := k.grow(spec, key); err != nil {
			slog.Warn("make a pool's member", "image", spec.Image, "err", err)
			rest = maxRest
			continue
		}
		rest = min(time.Since(t), maxRest)
	}
}

// maxRest bounds the rest after a member, and is that after one that failed.
const maxRest = 5 * time.Second

// pause waits until something changes; false: there is nothing left to keep.
func (k *keeper) pause() bool {
	k.mu.Lock()
	empty, drained := len(k.pools) == 0, k.kept
	k.mu.Unlock()
	if empty && drained {
		return false
	}
	var long <-chan time.Time
	if empty {
		long = time.After(idleTime)
	}
	select {
	case <-k.wake:
		return true
	case <-long:
		return false
	case <-k.over.Done():
		return false
	}
}

// short returns a pool that has fewer members than it should.
func (k *keeper) short() (api.Spec, string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, p := range k.pools {
		if p.ready() < p.Size {
			return poolSpec(p.Pool), key
		}
	}
	return api.Spec{}, ""
}

// grow makes one member.
func (k *keeper) grow(spec api.Spec, key string) error {
	born, gone, lifeline, err := k.m.spawnMember(k.over, control.Create{Spec: spec, TemplateBudgetMiB: k.m.opts.TemplateBudgetMiB})
	k.mu.Lock()
	p := k.pools[key]
	if p == nil { // drained meanwhile
		k.mu.Unlock()
		if err == nil {
			lifeline.Close()
			<-gone
			os.Remove(k.m.store.PoolMembers(key))
		}
		return nil
	}
	defer k.mu.Unlock()
	if err != nil {
		p.Error = err.Error()
		return err
	}
	p.Error = ""
	id := born.Sandbox.ID
	p.members[id] = lifeline
	k.trim(p) // it may be one too many by now
	go func() {
		<-gone // taken, or dead
		k.m.bury(k.over, key, id)
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(p.members, id)
		if len(p.members) == 0 && k.pools[key] != p {
			os.Remove(k.m.store.PoolMembers(key)) // fails, rightly, where there is a new pool
		}
		k.changed()
	}()
	return nil
}

func (k *keeper) changed() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// maxBody bounds a request's body, in bytes; a pool is the largest.
const maxBody = 1 << 20

func (k *keeper) routes() http.Handler {
	mux := http.NewServeMux()
	control.Handle(mux, control.RoutePools, maxBody, func(context.Context, struct{}) ([]api.Pool, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.list(""), nil
	})
	control.Handle(mux, control.RouteSetPool, maxBody, func(_ context.Context, p api.Pool) (api.Pool, error) {
		return k.set(p)
	})
	control.Handle(mux, control.RouteDrainPools, maxBody, func(ctx context.Context, d control.Drain) ([]api.Pool, error) {
		return k.drain(ctx, d.Image)
	})
	return mux
}

// list describes the pools of an image; of all where it is empty.
func (k *keeper) list(image string) []api.Pool {
	list := []api.Pool{}
	for _, p := range k.pools {
		if image != "" && p.Image != image {
			continue
		}
		d := p.Pool
		d.Ready, d.KeeperPID = p.ready(), os.Getpid()
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b api.Pool) int {
		return slices.Compare([]int{a.CPUs, a.MemoryMiB, a.DiskMiB}, []int{b.CPUs, b.MemoryMiB, b.DiskMiB})
	})
	return list
}

// set makes a pool, or changes its size.
func (k *keeper) set(ask api.Pool) (api.Pool, error) {
	spec := poolSpec(ask).WithDefaults()
	ask = api.Pool{Image: spec.Image, CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, DiskMiB: spec.DiskMiB, Size: ask.Size}
	key := control.PoolKey(spec)
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pools[key]
	if p == nil {
		p = &pool{members: map[string]io.Closer{}}
		k.pools[key] = p
	}
	p.Pool, k.kept = ask, true
	k.trim(p)
	if ask.Size == 0 {
		delete(k.pools, key)
		os.Remove(k.m.store.PoolMembers(key)) // fails, rightly, where members have still to end
	}
	if err := k.remember(); err != nil {
		return ask, err
	}
	k.changed()
	ask.Ready, ask.KeeperPID = p.ready(), os.Getpid()
	return ask, nil
}

// trim ends the members that are too many. Their ends take them out of the map.
func (k *keeper) trim(p *pool) {
	more := p.ready() - p.Size
	for id, lifeline := range p.members {
		if more <= 0 {
			return
		}
		if lifeline != nil {
			lifeline.Close()
			p.members[id] = nil
			more--
		}
	}
}

// remember writes down what pools there are to be.
func (k *keeper) remember() error {
	sizes := k.list("")
	for i := range sizes {
		sizes[i].Ready, sizes[i].KeeperPID, sizes[i].Error = 0, 0, ""
	}
	if len(sizes) == 0 {
		err := os.Remove(k.m.store.PoolSizes())
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return store.WriteJSON(k.m.store.PoolSizes(), sizes)
}

// drain ends pools and returns when their members are gone.
func (k *keeper) drain(ctx context.Context, image string) ([]api.Pool, error) {
	k.mu.Lock()
	out := k.list(image)
	drained := map[string]*pool{}
	for key, p := range k.pools {
		if image != "" && p.Image != image {
			continue
		}
		p.Size = 0
		k.trim(p)
		delete(k.pools, key)
		drained[key] = p
	}
	err := k.remember()
	k.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for wait := newPatience(); ; {
		k.mu.Lock()
		left := 0
		for _, p := range drained {
			left += len(p.members)
		}
		k.mu.Unlock()
		if left == 0 {
			for key := range drained {
				os.Remove(k.m.store.PoolMembers(key)) // of one that had no members either
			}
			k.changed()
			return out, nil
		}
		if err := wait.more(ctx); err != nil {
			return out, err
		}
	}
}

// startKeeper starts the keeper's process. It finds its own end.
func (m *Manager) startKeeper() error {
	program, err := m.program()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, "keep", strconv.Itoa(m.opts.TemplateBudgetMiB))
	cmd.Env = superviseEnv(m.store, os.Environ())
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return api.Errorf(api.Internal, "start the pools' keeper: %w", err)
	}
	go cmd.Wait() // nothing else reaps it
	return nil
}
