package secret

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/smolvm/smolvm/api"
)

// Vault holds the secrets of one sandbox, in memory alone. Its methods may be
// called at once.
type Vault struct {
	key    []byte // makes placeholders
	budget budget

	mu   sync.Mutex
	list []*held // by name; replaced, never changed
	snap atomic.Pointer[snapshot]
}

// held is one secret. It does not change.
type held struct {
	api.Secret
	placeholder string
	hosts       []pattern
}

// NewVault makes an empty vault. Placeholders depend on the key and on the secrets'
// names alone, so that what continues a saved guest knows those that are in it. The
// key must be kept from guests.
func NewVault(key []byte) *Vault {
	v := &Vault{key: slices.Clone(key)}
	v.snap.Store(newSnapshot(nil, &v.budget))
	return v
}

// Set adds a secret, or replaces that of its name. Without a value it is known
// by its placeholder, and requests that need it are refused. Class Invalid for a
// name, host or value that cannot be one, Exhausted beyond MaxSecrets.
func (v *Vault) Set(s api.Secret) error {
	if err := s.Check(); err != nil {
		return err
	}
	h := &held{Secret: s, placeholder: placeholder(v.key, s.Name)}
	for _, host := range s.Hosts {
		h.hosts = append(h.hosts, newPattern(host))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(v.list), func(o *held) bool { return o.Name == s.Name })
	if len(list) >= api.MaxSecrets {
		return api.Errorf(api.Exhausted, "set secret %q: a sandbox has at most %d", s.Name, api.MaxSecrets)
	}
	v.put(append(list, h))
	return nil
}

// Remove forgets a secret, and reports whether there was one. Its placeholder is
// nothing special from then on.
func (v *Vault) Remove(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(v.list), func(o *held) bool { return o.Name == name })
	found := len(list) < len(v.list)
	v.put(list)
	return found
}

func (v *Vault) put(list []*held) {
	v.list = list
	v.snap.Store(newSnapshot(list, &v.budget))
}

// List describes the secrets, sorted by name, without their values.
func (v *Vault) List() []api.SecretStatus {
	all := []api.SecretStatus{}
	for _, h := range v.snap.Load().list {
		all = append(all, api.SecretStatus{Name: h.Name, Hosts: h.Hosts, Placeholder: h.placeholder, Ready: h.Value != ""})
	}
	slices.SortFunc(all, func(a, b api.SecretStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Env returns the environment that processes of the guest get: NAME=placeholder.
func (v *Vault) Env() []string {
	var env []string
	for _, h := range v.snap.Load().list {
		env = append(env, h.Name+"="+h.placeholder)
	}
	return env
}

// Any reports whether there are secrets: else nothing need be looked through.
func (v *Vault) Any() bool { return len(v.snap.Load().list) > 0 }

// For reports whether a secret is meant for a host, a name in lower case without
// the last dot: requests to it must come before Rewrite.
func (v *Vault) For(host string) bool {
	return slices.ContainsFunc(v.snap.Load().list, func(h *held) bool { return h.meant(host) })
}

// Find returns the names of the secrets whose placeholders are in b, in any case
// of letters. It is meant for what leaves by other ways than requests: names that
// are asked for, datagrams, the first bytes of flows.
func (v *Vault) Find(b []byte) []string { return v.snap.Load().find(b) }

// Request is a request on its way to a server, to be changed in place.
type Request struct {
	Host   string // name of the server as it was dialled, in lower case without the last dot
	Secure bool   // it goes over TLS, to a server that is verified for Host
	Path   string // as on the wire, with its query
	Header http.Header
	Body   io.ReadCloser // nil: none
	Length int64         // of the body; -1: not known
}

// Finding is a placeholder that was found.
type Finding struct {
	Secret string // its name
	Where  string // "header Authorization", "query", "path", "body"
	// Put says that the value was put there. Otherwise the placeholder travels,
	// and Why says why: this is to raise an alarm.
	Put bool
	Why string
}

// Rewrite puts values into a request and tells what it found, each secret at each
// place once. For a body that streams, tell is called while it is read, from the
// reader's goroutine. An error, of class Unavailable where a secret has no value
// here or Invalid where it does not fit, means that the request must not be sent; its
// text may be shown to the guest.
func (v *Vault) Rewrite(r *Request, tell func(Finding)) error {
	return v.snap.Load().rewrite(r, tell)
}
