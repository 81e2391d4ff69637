// Package manager makes, finds and removes sandboxes: the client's side of the
// state directory. It runs no VM; each sandbox's supervisor does.
//
//	m := manager.New(store, manager.Options{})
//	h, err := m.Create(ctx, api.Spec{})
//
// What is remembered (the files) is never taken for what is alive: a sandbox is
// alive as long as its supervisor holds the lock in its directory.
package manager

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/store"
)

// Options configures a Manager. The zero value works.
type Options struct {
	Binary   string                               // the smolvm program; empty: looked for
	Progress func(step string, done, total int64) // may be nil

	TemplateBudgetMiB int // zero: the default
}

// Manager manages the sandboxes of one state directory.
type Manager struct {
	store store.Store
	opts  Options
}

// New returns a manager of the sandboxes in s.
func New(s store.Store, o Options) *Manager {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	return &Manager{s, o}
}

// Create makes a sandbox and waits until it runs.
func (m *Manager) Create(ctx context.Context, spec api.Spec) (*Handle, error) {
	if err := spec.WithDefaults().Check(); err != nil {
		return nil, err
	}
	if h, err := m.claim(ctx, spec); h != nil || err != nil {
		return h, err
	}
	return m.create(ctx, control.Create{Spec: spec})
}

// create makes a sandbox, of a point where one is named.
func (m *Manager) create(ctx context.Context, c control.Create) (*Handle, error) {
	c.TemplateBudgetMiB = m.opts.TemplateBudgetMiB
	born, lifeline, err := m.spawn(ctx, c, "create")
	if err != nil {
		return nil, err
	}
	h := &Handle{m: m, id: born.Sandbox.ID}
	if c.Spec.Ephemeral {
		h.lifeline = lifeline
	} else {
		lifeline.Close()
	}
	return h, nil
}

// minPrefix is the shortest beginning of an id that names a sandbox.
const minPrefix = 4

var refRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`) })

// Get finds a sandbox by id, name or unique beginning of an id.
func (m *Manager) Get(ctx context.Context, ref string) (*Handle, error) {
	// Before it becomes part of a path.
	if !refRE().MatchString(ref) {
		return nil, notFound(ref)
	}
	id, err := m.resolve(ref)
	if err != nil {
		return nil, err
	}
	h := &Handle{m: m, id: id}
	_, err = h.Info(ctx)
	return h, err
}

func (m *Manager) resolve(ref string) (string, error) {
	if _, err := os.Stat(string(m.store.Sandbox(ref))); err == nil {
		return ref, nil
	}
	if id, err := m.store.ByName(ref); err == nil {
		return id, nil
	}
	ids, err := m.ids()
	if err != nil {
		return "", err
	}
	match := slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, ref) })
	if len(ref) < minPrefix || len(match) == 0 {
		return "", notFound(ref)
	}
	if len(match) > 1 {
		return "", api.Errorf(api.Invalid, "%q is the beginning of %d ids", ref, len(match)).
			WithRecovery("Give more of the id, or the name.")
	}
	return match[0], nil
}

func notFound(ref string) error {
	return api.Errorf(api.NotFound, "find sandbox %.80q: there is none of that id or name", ref).
		WithRecovery("List what there is with: smolvm ls")
}

// lists reports whether o lets a sandbox through.
func lists(o api.ListOptions, s api.Sandbox) bool {
	if len(o.States) > 0 && !slices.Contains(o.States, s.State) {
		return false
	}
	for k, v := range o.Labels {
		if got, ok := s.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// List describes the sandboxes that o lets through, oldest first.
func (m *Manager) List(ctx context.Context, o api.ListOptions) ([]api.Sandbox, error) {
	ids, err := m.ids()
	if err != nil {
		return nil, err
	}
	list := []api.Sandbox{}
	for _, id := range ids {
		info, err := m.look(ctx, id)
		if errors.Is(err, api.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if !waits(info) && lists(o, info) {
			list = append(list, info)
		}
	}
	slices.SortFunc(list, func(a, b api.Sandbox) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// waits reports whether a sandbox is a pool's, or was when it died: it gets its name
// when it is taken. (One whose record cannot be read has no image either.)
func waits(info api.Sandbox) bool {
	return info.State == api.StatePooled || info.Name == "" && info.Image != ""
}

func (m *Manager) ids() ([]string, error) {
	entries, err := os.ReadDir(m.store.Sandboxes())
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// lookTime bounds how long one supervisor that hangs may keep those waiting who
// ask what there is.
const lookTime = 3 * time.Second

// look describes a sandbox as it is now. One that has no supervisor is removed where
// its time to live is over, or where it waited in a pool.
func (m *Manager) look(ctx context.Context, id string) (api.Sandbox, error) {
	dir := m.store.Sandbox(id)
	var rec control.Record
	if err := store.ReadJSON(dir.Spec(), &rec); err != nil {
		if _, gone := os.Stat(string(dir)); gone != nil {
			return api.Sandbox{}, notFound(id)
		}
		// Listed, so that it can be removed.
		return api.Sandbox{ID: id, State: api.StateError, Reason: "its record cannot be read: " + err.Error()}, nil
	}
	refused := false
	if store.Locked(dir.Lock()) {
		var info api.Sandbox
		quick, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		err := control.NewClient(dir.Socket()).Call(quick, control.RouteSandbox, nil, &info)
		if err == nil {
			return info, nil
		}
		if ctx.Err() != nil {
			return info, context.Cause(ctx)
		}
		refused = quick.Err() == nil
	}
	var st control.Status
	if err := store.ReadJSON(dir.State(), &st); err != nil {
		st = control.Status{State: api.StateError, Reason: "its state cannot be read: " + err.Error()}
	}
	if refused && (st.State == api.StateRunning || st.State == api.StatePaused || st.State == api.StatePooled) {
		// One that runs listens: this one has just died and has not let go yet.
		dying, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		(&Handle{m: m, id: id}).waitFree(dying)
	}
	if store.Locked(dir.Lock()) {
		return control.Describe(rec, st), nil // not listening yet, or not any more
	}
	if rec.Over(st) || st.State == api.StatePooled || rec.Spec.Name == "" {
		return api.Sandbox{}, errors.Join(m.discard(id, rec.Spec.Name), notFound(id))
	}
	st = asDead(st)
	if _, err := os.Stat(dir.Hibernated()); err == nil && st.State == api.StateError {
		// It died while it hibernated or woke: start continues what was saved.
		st.State = api.StateHibernated
	}
	return control.Describe(rec, st), nil
}

// asDead is what a status means when no supervisor lives.
func asDead(st control.Status) control.Status {
	switch st.State {
	case api.StateStopped, api.StateError, api.StateHibernated:
		return st
	case api.StateCreating:
		st.Reason = "its supervisor died before the guest was up"
	default:
		st.Reason = "its supervisor died"
	}
	st.State, st.SupervisorPID, st.VMMPID = api.StateError, 0, 0
	return st
}

// discard removes a sandbox that has no supervisor. One that got a supervisor
// meanwhile is left alone, with an error of class Conflict.
func (m *Manager) discard(id, name string) error {
	l, err := store.TryLock(m.store.Sandbox(id).Lock())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Unlock()
	var rec control.Record
	if store.ReadJSON(m.store.Sandbox(id).Spec(), &rec) == nil {
		name = rec.Spec.Name // it may have been renamed since the caller looked
	}
	return m.store.Unpublish(id, name)
}
