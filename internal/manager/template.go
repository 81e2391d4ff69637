package manager

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/point"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
)

func (m *Manager) key() (seal.Key, error) { return seal.OpenKey(m.store.Key()) }

// Templates lists the templates, the one used last first.
func (m *Manager) Templates(context.Context) ([]api.Template, error) {
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	list := []api.Template{}
	for _, dir := range m.store.ListTemplates() {
		t, err := point.Read(key, dir.Manifest())
		if err != nil {
			continue // removed meanwhile, or not ours: it will not be used
		}
		list = append(list, t.Template(dir))
	}
	slices.SortFunc(list, func(a, b api.Template) int { return b.Used.Compare(a.Used) })
	return list, nil
}

// BuildTemplate makes a template where it is not there yet.
func (m *Manager) BuildTemplate(ctx context.Context, spec api.Spec) (api.Template, error) {
	if err := spec.WithDefaults().Check(); err != nil {
		return api.Template{}, err
	}
	born, lifeline, err := m.spawn(ctx, control.Create{Spec: spec, TemplateBudgetMiB: m.opts.TemplateBudgetMiB}, "template")
	if err != nil {
		return api.Template{}, err
	}
	lifeline.Close()
	if born.Template == nil {
		return api.Template{}, api.Errorf(api.Internal, "make template: its maker said nothing of it")
	}
	return *born.Template, nil
}

// RemoveTemplate removes a template by its key or a unique beginning of it.
func (m *Manager) RemoveTemplate(ctx context.Context, key string) error {
	entries, err := os.ReadDir(m.store.Templates())
	if err != nil {
		return err
	}
	var match []string
	for _, e := range entries {
		if e.IsDir() && key != "" && strings.HasPrefix(e.Name(), key) {
			match = append(match, e.Name())
		}
	}
	switch len(match) {
	case 0:
		return api.Errorf(api.NotFound, "find template %.80q: there is none", key).
			WithRecovery("List what there is with: smolvm template ls")
	case 1:
		return m.removeTemplate(ctx, m.store.Template(match[0]))
	}
	return api.Errorf(api.Invalid, "%q is the beginning of %d templates", key, len(match)).WithRecovery("Give more of the key.")
}

// removeTemplate waits for those who make or use it.
func (m *Manager) removeTemplate(ctx context.Context, dir store.PointDir) error {
	l, err := store.AwaitLock(ctx, dir.Lock(), nil)
	if err != nil {
		return err
	}
	defer l.Unlock()
	return errors.Join(point.Remove(dir.Manifest(), string(dir)), os.Remove(dir.Lock()))
}
