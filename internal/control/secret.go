package control

import (
	"slices"

	"github.com/smolvm/smolvm/api"
)

// Routes about secrets. No answer has a value.
const (
	RouteSecrets      = "GET /v1/secrets"         // -> []api.SecretStatus
	RouteSetSecret    = "POST /v1/secrets"        // api.Secret, without hosts for one that has them -> api.SecretStatus
	RouteRemoveSecret = "POST /v1/secrets/remove" // SecretName
)

// SecretName is the body of RouteRemoveSecret.
type SecretName struct {
	Name string `json:"name"`
}

// ChangeSecret returns the secrets of spec with in added or changed, without values, and
// in with the hosts that it has now.
func ChangeSecret(spec api.Spec, in api.Secret) ([]api.Secret, api.Secret, error) {
	i := slices.IndexFunc(spec.Secrets, func(s api.Secret) bool { return s.Name == in.Name })
	if i >= 0 && len(in.Hosts) == 0 {
		in.Hosts = spec.Secrets[i].Hosts
	}
	if err := in.Check(); err != nil {
		return nil, in, err
	}
	if _, ok := spec.Env[in.Name]; ok && i < 0 {
		return nil, in, api.Errorf(api.Conflict, "set secret %s: the sandbox has an environment variable of that name", in.Name).
			WithRecovery("Remove it first: smolvm env unset %s %s", spec.Name, in.Name)
	}
	kept := api.Secret{Name: in.Name, Hosts: in.Hosts}
	list := slices.Clone(spec.Secrets)
	if i >= 0 {
		list[i] = kept
		return list, in, nil
	}
	if len(list) >= api.MaxSecrets {
		return nil, in, api.Errorf(api.Exhausted, "set secret %s: a sandbox has at most %d", in.Name, api.MaxSecrets)
	}
	return append(list, kept), in, nil
}

// RemoveSecret returns list without a secret. Class NotFound where it has none such.
func RemoveSecret(list []api.Secret, name string) ([]api.Secret, error) {
	left := slices.DeleteFunc(slices.Clone(list), func(s api.Secret) bool { return s.Name == name })
	if len(left) == len(list) {
		return nil, api.Errorf(api.NotFound, "remove secret %.80q: the sandbox has none such", name)
	}
	return left, nil
}
