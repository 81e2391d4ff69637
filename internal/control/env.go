package control

import (
	"maps"
	"slices"

	"github.com/smolvm/smolvm/api"
)

// ChangeEnv applies a change to an environment. On an error nothing changes.
func ChangeEnv(env *map[string]string, c api.EnvChange) (api.EnvChanged, error) {
	next := maps.Clone(*env)
	if next == nil {
		next = map[string]string{}
	}
	out := api.EnvChanged{Set: slices.Sorted(maps.Keys(c.Set)), Unset: []string{}, Missing: []string{}}
	if out.Set == nil {
		out.Set = []string{}
	}
	for _, k := range c.Unset {
		if err := api.CheckEnvName(k); err != nil {
			return api.EnvChanged{}, err
		}
		if _, ok := next[k]; !ok {
			out.Missing = append(out.Missing, k)
			continue
		}
		delete(next, k)
		out.Unset = append(out.Unset, k)
	}
	maps.Copy(next, c.Set)
	if err := api.CheckEnv(next); err != nil {
		return api.EnvChanged{}, err
	}
	*env = next
	return out, nil
}
