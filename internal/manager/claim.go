package manager

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
)

// claim takes a sandbox that waits in a pool for spec. Nil without an error: none
// waits. Of many clients that come at once each gets another member, or none.
func (m *Manager) claim(ctx context.Context, spec api.Spec) (*Handle, error) {
	key := control.PoolKey(spec)
	if key == "" {
		return nil, nil
	}
	dir := m.store.PoolMembers(key)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil // there is no such pool
	}
	// The member itself decides who gets it. Who comes at the same time begins elsewhere.
	for _, i := range rand.Perm(len(entries)) {
		id := entries[i].Name()
		h, err := m.take(ctx, id, spec)
		switch {
		case err == nil:
			return h, nil
		case ctx.Err() != nil:
			return nil, api.Errorf(contextClass(ctx), "create sandbox: %w", context.Cause(ctx))
		case spec.Name != "" && errors.Is(err, api.ErrConflict) && m.taken(spec.Name):
			return nil, nil // to make one fails too, and says so
		}
		// Another was faster, or its image was replaced, or it died: then it must not hold
		// the name. The next, or a new one.
		m.bury(ctx, key, id)
	}
	return nil, nil
}

// bury removes a member that has died before it was taken, if it has.
func (m *Manager) bury(ctx context.Context, key, id string) {
	if _, err := m.look(ctx, id); errors.Is(err, api.ErrNotFound) {
		os.Remove(filepath.Join(m.store.PoolMembers(key), id))
	}
}

func (m *Manager) taken(name string) bool {
	_, err := m.store.ByName(name)
	return err == nil
}

// take has one member become what spec asks for.
func (m *Manager) take(ctx context.Context, id string, spec api.Spec) (*Handle, error) {
	conn, err := sockpath.Dial(ctx, m.store.Sandbox(id).Socket())
	if err != nil {
		return nil, err
	}
	// A member whose client hangs up takes all back; one that has answered has not seen
	// it in time.
	stop := context.AfterFunc(ctx, func() {
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
		conn.SetReadDeadline(time.Now().Add(undo.CleanupTime))
	})
	b, err := control.Claim(conn, control.Create{Spec: spec})
	if err == nil && b.Error != nil {
		err = b.Error
	}
	if !stop() && err == nil && b.Sandbox != nil {
		err = m.takeBack(ctx, b.Sandbox.ID)
	}
	if err != nil || b.Sandbox == nil {
		conn.Close()
		if err != nil && api.AsError(err).Code == control.CodeSpent {
			// It may have the name already, which the next must find free.
			clean, cancel := undo.Context(ctx)
			defer cancel()
			(&Handle{m: m, id: id}).waitFree(clean)
		}
		return nil, errors.Join(err, context.Cause(ctx))
	}
	if spec.Ephemeral {
		// Keeps the connection from the garbage collector, which would close it for a
		// caller that has dropped the sandbox but uses it.
		go func() {
			io.Copy(io.Discard, conn)
			conn.Close()
		}()
	}
	h := &Handle{m: m, id: b.Sandbox.ID}
	return h, h.keep(conn, spec.Ephemeral)
}

// SetPool has the keeper keep a pool.
func (m *Manager) SetPool(ctx context.Context, p api.Pool) (out api.Pool, err error) {
	spec := poolSpec(p).WithDefaults()
	if err := spec.Check(); err != nil {
		return p, err
	}
	if p.Size < 0 || p.Size > api.MaxPool {
		return p, api.Errorf(api.Invalid, "pool of %d: not within 0 to %d", p.Size, api.MaxPool)
	}
	return out, m.callKeeper(ctx, control.RouteSetPool, p, &out)
}

// Pools lists the pools.
func (m *Manager) Pools(ctx context.Context) ([]api.Pool, error) {
	if sizes, err := m.poolSizes(); err != nil || len(sizes) == 0 {
		return []api.Pool{}, err // no keeper is needed to say so
	}
	var out []api.Pool
	return out, m.callKeeper(ctx, control.RoutePools, nil, &out)
}

// DrainPools ends the pools of an image; of all where image is empty.
func (m *Manager) DrainPools(ctx context.Context, image string) ([]api.Pool, error) {
	if sizes, err := m.poolSizes(); err != nil || len(sizes) == 0 {
		return []api.Pool{}, err
	}
	var out []api.Pool
	if err := m.callKeeper(ctx, control.RouteDrainPools, control.Drain{Image: image}, &out); err != nil {
		return nil, err
	}
	if left, err := m.poolSizes(); err != nil || len(left) > 0 {
		return out, err
	}
	for wait := newPatience(); store.Locked(m.store.KeeperLock()); { // it has nothing to keep any more
		if err := wait.more(ctx); err != nil {
			return out, err
		}
	}
	return out, nil
}

// poolSizes are the pools that there are to be, as they are remembered.
func (m *Manager) poolSizes() ([]api.Pool, error) {
	var list []api.Pool
	err := store.ReadJSON(m.store.PoolSizes(), &list)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

func poolSpec(p api.Pool) api.Spec {
	return api.Spec{Image: p.Image, CPUs: p.CPUs, MemoryMiB: p.MemoryMiB, DiskMiB: p.DiskMiB}
}

// callKeeper asks the keeper, which is started where it is not there.
func (m *Manager) callKeeper(ctx context.Context, route string, in, out any) error {
	for wait := newPatience(); ; {
		err := control.NewClient(m.store.Keeper()).Call(ctx, route, in, out)
		if !errors.Is(err, control.ErrNoSupervisor) && !errors.Is(err, control.ErrEnded) {
			return err
		}
		if !store.Locked(m.store.KeeperLock()) {
			if err := m.startKeeper(); err != nil {
				return err
			}
		}
		if err := wait.more(ctx); err != nil {
			return err
		}
	}
}
