package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
)

// GC removes what no live sandbox owns.
func (m *Manager) GC(_ context.Context, dryRun bool) (api.Collected, error) {
	c := api.Collected{Sandboxes: []string{}, DryRun: dryRun}
	ids, err := m.ids()
	if err != nil {
		return c, err
	}
	var errs []error
	for _, id := range ids {
		if store.Locked(m.store.Sandbox(id).Lock()) {
			continue
		}
		name, garbage := m.garbage(id)
		if !garbage {
			continue
		}
		if !dryRun {
			if err := m.discard(id, name); errors.Is(err, api.ErrConflict) {
				continue
			} else if err != nil {
				errs = append(errs, err)
			}
		}
		c.Sandboxes = append(c.Sandboxes, id)
	}
	c.Names, err = m.store.SweepNames(dryRun)
	errs = append(errs, err)
	c.Temporary, err = m.store.SweepTmp(dryRun)
	errs = append(errs, err)
	points, err := m.store.SweepPoints(dryRun)
	c.Temporary = append(c.Temporary, points...)
	if !dryRun {
		m.sweepPools()
	}
	return c, errors.Join(append(errs, err)...)
}

// sweepPools removes what says that sandboxes wait which do not.
func (m *Manager) sweepPools() {
	pools, _ := filepath.Glob(m.store.PoolMembers("*"))
	for _, pool := range pools {
		members, err := os.ReadDir(pool)
		if err != nil {
			continue // no pool, but a file of the keeper
		}
		for _, e := range members {
			if _, err := os.Stat(string(m.store.Sandbox(e.Name()))); errors.Is(err, os.ErrNotExist) {
				os.Remove(filepath.Join(pool, e.Name()))
			}
		}
		if !store.Locked(m.store.KeeperLock()) {
			os.Remove(pool) // fails, rightly, where somebody waits
		}
	}
}

// garbage reports whether nobody can want a sandbox that has no supervisor: it
// never ran, its client is gone, or its time is over.
func (m *Manager) garbage(id string) (name string, yes bool) {
	var rec control.Record
	var st control.Status
	dir := m.store.Sandbox(id)
	if err := store.ReadJSON(dir.Spec(), &rec); err != nil {
		return "", errors.Is(err, os.ErrNotExist)
	}
	if err := store.ReadJSON(dir.State(), &st); err != nil && !errors.Is(err, os.ErrNotExist) {
		return rec.Spec.Name, false // damaged: its disk may hold work
	}
	return rec.Spec.Name, !st.Lived || rec.Spec.Ephemeral || rec.Over(st)
}
