package apikey_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

func TestKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	keys, other := apikey.Open(path), apikey.Open(path) // as in two processes
	k, token, err := keys.Create(apikey.Options{Name: "ci", Scope: apikey.Manage, Rate: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Verify(token); err != nil || got != k {
		t.Errorf("%+v, %v; want %+v", got, err, k)
	}
	text, err := os.ReadFile(path)
	if st, e := os.Stat(path); err != nil || e != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, %v", st.Mode(), err, e)
	}
	if secret := token[len(token)-20:]; strings.Contains(string(text), secret) {
		t.Errorf("the secret is in the file: %s", text)
	}
	if _, _, err := other.Create(apikey.Options{Name: "ci"}); !errors.Is(err, api.ErrConflict) {
		t.Error(err)
	}
	if _, _, err := other.Create(apikey.Options{Name: k.ID}); !errors.Is(err, api.ErrConflict) {
		t.Error(err)
	}
	if list, err := other.List(); err != nil || len(list) != 1 || list[0] != k || list[0].Hash != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if got, err := other.Get(k.ID); err != nil || got != k {
		t.Errorf("%+v, %v; want %+v", got, err, k)
	}
	if _, err := other.Revoke("ci"); err != nil {
		t.Error(err)
	}
	if _, err := keys.Get(k.ID); !errors.Is(err, apikey.ErrUnknown) {
		t.Errorf("a revoked key: %v", err)
	}
	if _, err := keys.Verify(token); !errors.Is(err, apikey.ErrUnknown) {
		t.Errorf("a revoked key: %v", err)
	}
	if _, err := other.Revoke("ci"); !errors.Is(err, api.ErrNotFound) {
		t.Error(err)
	}
}

func TestTokensThatAreNone(t *testing.T) {
	keys := apikey.Open(filepath.Join(t.TempDir(), "keys.json"))
	_, token, err := keys.Create(apikey.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := keys.Create(apikey.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "smolvm_", token[:len(token)-1], token + "a", strings.ToUpper(token), token + "\n", " " + token,
		token[:len("smolvm_12345678_")] + second[len("smolvm_12345678_"):], // the id of one with the secret of another
	} {
		if _, err := keys.Verify(bad); !errors.Is(err, apikey.ErrUnknown) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestExpiry(t *testing.T) {
	keys := apikey.Open(filepath.Join(t.TempDir(), "keys.json"))
	_, token, err := keys.Create(apikey.Options{TTL: time.Nanosecond}) // over before the next second
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Verify(token); !errors.Is(err, apikey.ErrUnknown) {
		t.Error(err)
	}
	if _, token, err = keys.Create(apikey.Options{TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Verify(token); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	keys := apikey.Open(filepath.Join(t.TempDir(), "keys.json"))
	for _, o := range []apikey.Options{
		{Name: "-x"}, {Name: "a b"}, {Name: strings.Repeat("x", 64)}, {Scope: "root"}, {TTL: -1}, {TTL: math.MaxInt64},
		{Rate: -1}, {Rate: math.NaN()}, {Rate: math.Inf(1)}, {Concurrent: -1}, {Concurrent: 1 << 20},
	} {
		if _, _, err := keys.Create(o); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestScopes(t *testing.T) {
	all := apikey.Scopes()
	for i, have := range all {
		for j, need := range all {
			if got := have.Allows(need); got != (i >= j) {
				t.Errorf("%s allows %s: %v", have, need, got)
			}
		}
	}
	if apikey.Scope("").Allows("") || apikey.Admin.Allows("root") || apikey.Scope("root").Allows(apikey.Read) {
		t.Error("what is no scope allows something")
	}
}
