package api

import (
	"errors"
	"strings"
	"testing"
)

func TestSecretCheck(t *testing.T) {
	ok := Secret{Name: "API_KEY", Hosts: []string{"api.example.com", "*.Example.com", "localhost"}, Value: "a b\tü"}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
	for what, s := range map[string]Secret{
		"no name":        {Hosts: ok.Hosts},
		"a bad name":     {Name: "A-B", Hosts: ok.Hosts},
		"a digit first":  {Name: "1A", Hosts: ok.Hosts},
		"no host":        {Name: "A"},
		"an empty host":  {Name: "A", Hosts: []string{""}},
		"an address":     {Name: "A", Hosts: []string{"127.0.0.1"}},
		"another":        {Name: "A", Hosts: []string{"::1"}},
		"a port":         {Name: "A", Hosts: []string{"a.example:443"}},
		"a URL":          {Name: "A", Hosts: []string{"https://a.example"}},
		"all":            {Name: "A", Hosts: []string{"*"}},
		"all of a kind":  {Name: "A", Hosts: []string{"*.com"}},
		"a star inside":  {Name: "A", Hosts: []string{"a.*.example"}},
		"a last dot":     {Name: "A", Hosts: []string{"a.example."}},
		"an umlaut":      {Name: "A", Hosts: []string{"ä.example"}},
		"a long name":    {Name: "A", Hosts: []string{strings.Repeat("a.", 127) + "aa"}},
		"a line break":   {Name: "A", Hosts: ok.Hosts, Value: "a\nb"},
		"a return":       {Name: "A", Hosts: ok.Hosts, Value: "a\rb"},
		"a NUL":          {Name: "A", Hosts: ok.Hosts, Value: "a\x00b"},
		"no text":        {Name: "A", Hosts: ok.Hosts, Value: "a\xff"},
		"a space at end": {Name: "A", Hosts: ok.Hosts, Value: "a "},
	} {
		err := s.Check()
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		} else if s.Value != "" && strings.Contains(err.Error(), s.Value) {
			t.Errorf("%s: %v shows the value", what, err)
		}
	}
	long := Secret{Name: "A", Hosts: ok.Hosts, Value: strings.Repeat("x", MaxSecretBytes+1)}
	if err := long.Check(); !errors.Is(err, ErrExhausted) {
		t.Error(err)
	}
	spec := Spec{Secrets: []Secret{ok}, Env: map[string]string{"API_KEY": "x"}}
	if err := spec.checkSecrets(); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	spec = Spec{Secrets: []Secret{ok, ok}}
	if err := spec.checkSecrets(); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
