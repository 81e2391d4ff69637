// Package apikey keeps the keys of the HTTP API: who may do what, until when, and how
// much at once. Only hashes are stored.
//
//	keys := apikey.Open(store.APIKeys())
//	key, token, err := keys.Create(apikey.Options{Name: "ci", Scope: apikey.Run})
//	key, err = keys.Verify(token)
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

// Scope says how far a key reaches. A wider scope holds the narrower ones.
type Scope string

// The scopes, from the narrowest.
const (
	Read   Scope = "read"   // look
	Run    Scope = "run"    // commands, processes and files inside sandboxes
	Manage Scope = "manage" // create, remove, network, snapshots
	Admin  Scope = "admin"  // images, templates, pools, garbage
)

// Scopes lists the scopes, from the narrowest.
func Scopes() []Scope { return []Scope{Read, Run, Manage, Admin} }

// Allows reports whether s holds what need asks for.
func (s Scope) Allows(need Scope) bool {
	have, want := slices.Index(Scopes(), s), slices.Index(Scopes(), need)
	return want >= 0 && have >= want
}

// Bounds of keys.
const (
	MaxKeys       = 1000
	MaxName       = 63
	MaxRate       = 1e6
	MaxConcurrent = 1 << 16
)

// Key is a key without its secret.
type Key struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Scope   Scope     `json:"scope"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never

	Rate       float64 `json:"rate,omitempty"`       // requests a second, after a burst of two seconds' worth; zero: no bound
	Concurrent int     `json:"concurrent,omitempty"` // requests under way at once; zero: DefaultConcurrent

	Hash string `json:"hash,omitempty"` // SHA-256 of the token, hexadecimal; empty in what List returns
}

// DefaultConcurrent bounds the requests of a key that are under way at once.
const DefaultConcurrent = 256

// Options says what key to make.
type Options struct {
	Name       string        // unique; empty: the id
	Scope      Scope         // empty: Run
	TTL        time.Duration // zero: it never expires
	Rate       float64
	Concurrent int
}

// Store is the file of keys. It may be used from many goroutines and processes.
type Store struct {
	path string

	mu   sync.Mutex
	seen os.FileInfo // of what keys was read from
	keys []Key
}

// Open returns the store whose file is at path. It need not be there.
func Open(path string) *Store { return &Store{path: path} }

const tokenPrefix = "smolvm_"

// tokenRE is what a token looks like: prefix, id, secret.
var tokenRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^smolvm_([a-z2-7]{8})_[a-z2-7]{52}$`) })

var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`) })

// Create makes a key. The token is what its holder sends; it is nowhere else.
// Class Conflict where the name is taken.
func (s *Store) Create(o Options) (Key, string, error) {
	if o.Scope == "" {
		o.Scope = Run
	}
	k := Key{ID: random(5), Name: o.Name, Scope: o.Scope, Created: time.Now().UTC().Truncate(time.Second), Rate: o.Rate, Concurrent: o.Concurrent}
	if k.Name == "" {
		k.Name = k.ID
	}
	if err := k.check(o.TTL); err != nil {
		return Key{}, "", err
	}
	if o.TTL > 0 {
		k.Expires = k.Created.Add(o.TTL)
	}
	token := tokenPrefix + k.ID + "_" + random(32)
	k.Hash = hash(token)
	err := s.change(func(keys []Key) ([]Key, error) {
		if len(keys) >= MaxKeys {
			return nil, api.Errorf(api.Exhausted, "create key: there are %d already", len(keys)).
				WithRecovery("Revoke one with: smolvm key revoke NAME")
		}
		if slices.ContainsFunc(keys, func(o Key) bool { return o.ID == k.ID || o.ID == k.Name || o.Name == k.Name || o.Name == k.ID }) {
			return nil, api.Errorf(api.Conflict, "create key: the name %q is taken", k.Name)
		}
		return append(keys, k), nil
	})
	if err != nil {
		return Key{}, "", err
	}
	k.Hash = ""
	return k, token, nil
}

func (k Key) check(ttl time.Duration) error {
	switch {
	case !nameRE().MatchString(k.Name):
		return api.Errorf(api.Invalid, "key name %.80q is not valid", k.Name).
			WithRecovery("Use 1 to %d letters, digits, dots, dashes and underscores, beginning with a letter or digit.", MaxName)
	case !slices.Contains(Scopes(), k.Scope):
		return api.Errorf(api.Invalid, "scope %.80q is not known", k.Scope).
			WithRecovery("Use %s, %s, %s or %s.", Read, Run, Manage, Admin)
	case ttl < 0 || ttl > api.MaxTTL:
		return api.Errorf(api.Invalid, "time to live of a key is %v, outside 0 to %v", ttl, api.MaxTTL)
	case !(k.Rate >= 0 && k.Rate <= MaxRate): // a NaN too
		return api.Errorf(api.Invalid, "rate of a key is %v, outside 0 to %v", k.Rate, MaxRate)
	case k.Concurrent < 0 || k.Concurrent > MaxConcurrent:
		return api.Errorf(api.Invalid, "requests at once of a key are %d, outside 0 to %d", k.Concurrent, MaxConcurrent)
	}
	return nil
}

// List returns the keys, oldest first, without their hashes.
func (s *Store) List() ([]Key, error) {
	keys, err := s.load()
	out := slices.Clone(keys)
	for i := range out {
		out[i].Hash = ""
	}
	return out, err
}

// Revoke removes a key by id or name. Class NotFound where there is none.
func (s *Store) Revoke(ref string) (gone Key, err error) {
	return gone, s.change(func(keys []Key) ([]Key, error) {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == ref || k.Name == ref })
		if i < 0 {
			return nil, api.Errorf(api.NotFound, "revoke key %.80q: there is none of that id or name", ref).
				WithRecovery("List them with: smolvm key ls")
		}
		gone = keys[i]
		gone.Hash = ""
		return slices.Delete(keys, i, i+1), nil
	})
}

// ErrUnknown is why Verify refuses, whatever is wrong: who tries tokens learns nothing.
var ErrUnknown = errors.New("the key is not known, or has expired")

// Verify returns the key that a token is of, or ErrUnknown, or why the keys cannot
// be read.
func (s *Store) Verify(token string) (Key, error) {
	m := tokenRE().FindStringSubmatch(token)
	if m == nil {
		return Key{}, ErrUnknown
	}
	keys, err := s.load()
	if err != nil {
		return Key{}, err
	}
	got := hash(token)
	for _, k := range keys {
		// The id is no secret; what is compared in constant time is the hash.
		if k.ID == m[1] && subtle.ConstantTimeCompare([]byte(k.Hash), []byte(got)) == 1 && !k.expired() {
			k.Hash = ""
			return k, nil
		}
	}
	return Key{}, ErrUnknown
}

// Get returns the key of an id, or ErrUnknown where it was revoked or has expired.
func (s *Store) Get(id string) (Key, error) {
	keys, err := s.load()
	if err != nil {
		return Key{}, err
	}
	for _, k := range keys {
		if k.ID == id && !k.expired() {
			k.Hash = ""
			return k, nil
		}
	}
	return Key{}, ErrUnknown
}

func (k Key) expired() bool { return !k.Expires.IsZero() && !time.Now().Before(k.Expires) }

// load reads the file where it is not the one that was read last: a key that was
// revoked by another process ends at once.
func (s *Store) load() ([]Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) {
		s.seen, s.keys = nil, nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Replaced whole by a rename: another file has another inode, or another time.
	if s.seen != nil && os.SameFile(st, s.seen) && st.ModTime().Equal(s.seen.ModTime()) {
		return s.keys, nil
	}
	keys, err := s.read()
	if err == nil {
		s.seen, s.keys = st, keys
	}
	return keys, err
}

func (s *Store) read() (keys []Key, err error) {
	if err := store.ReadJSON(s.path, &keys); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, api.Errorf(api.Internal, "read keys: %w", err)
	}
	return keys, nil
}

func (s *Store) change(f func([]Key) ([]Key, error)) error {
	l, err := store.WaitLock(s.path + ".lock")
	if err != nil {
		return err
	}
	defer l.Unlock()
	keys, err := s.read()
	if err != nil {
		return err
	}
	keys, err = f(slices.DeleteFunc(keys, Key.gone))
	if err != nil {
		return err
	}
	return store.WriteJSON(s.path, keys)
}

// keepExpired is how long an expired key is still listed.
const keepExpired = 30 * 24 * time.Hour

func (k Key) gone() bool { return !k.Expires.IsZero() && time.Since(k.Expires) > keepExpired }

// random returns n random bytes as letters and digits.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// hash needs no salt and no slowness: a token has 256 random bits.
func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// MaxConcurrent is how many requests of a key may be under way at once.
func (k Key) MaxConcurrent() int {
	if k.Concurrent == 0 {
		return DefaultConcurrent
	}
	return k.Concurrent
}
