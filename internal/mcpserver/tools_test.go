package mcpserver

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"reflect"
	"testing"

	"github.com/smolvm/smolvm/api"
)

var update = flag.Bool("update", false, "write testdata/tools.json anew")

// TestTools shows what clients are told of the tools, all of them.
func TestTools(t *testing.T) {
	p := newPlace(t, Options{AllowApprove: true})
	list, err := p.open(t, nil).ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(list.Tools, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("testdata/tools.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile("testdata/tools.json"); err != nil || string(want) != string(got) {
		t.Errorf("testdata/tools.json is not what clients are told (%v): look at the change, then run with -update", err)
	}
}

func TestModelsCannotWidenTheNetwork(t *testing.T) {
	policy := api.Network{Policy: &api.Policy{}}
	none := api.Network{Mode: api.NetworkNone}
	for _, c := range []struct {
		name   string
		set    api.Network
		in     createIn
		want   api.Network
		denied error
	}{
		{name: "nothing asked", set: policy, want: policy},
		{name: "less than the internet", in: createIn{AllowHosts: []string{"a.example"}}, want: api.Network{
			Mode: api.NetworkPolicy, InternetSettings: &api.InternetSettings{AllowedDomains: []string{"a.example"}},
		}},
		{name: "less than all", set: api.Network{Mode: api.NetworkOpen}, in: createIn{AllowHosts: []string{"a.example"}}, want: api.Network{
			Mode: api.NetworkPolicy, InternetSettings: &api.InternetSettings{AllowedDomains: []string{"a.example"}},
		}},
		{name: "none", set: policy, in: createIn{Offline: true}, want: none},
		{name: "more than a policy", set: policy, in: createIn{AllowHosts: []string{"a.example"}}, denied: api.ErrDenied},
		{name: "more than none", set: none, in: createIn{AllowHosts: []string{"a.example"}}, denied: api.ErrDenied},
		{name: "both", in: createIn{Offline: true, AllowHosts: []string{"a.example"}}, denied: api.ErrInvalid},
	} {
		got, err := narrowed(c.set, c.in)
		if !errors.Is(err, c.denied) || err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

// TestSpec: what the server was started with holds where a model does not say.
func TestSpec(t *testing.T) {
	s := New(Options{Spec: api.Spec{
		Image: "mine", MemoryMiB: 1024, Env: map[string]string{"A": "1", "B": "1"}, Mounts: []api.Mount{{Host: "/x"}},
	}})
	c := &call{session: &session{s: s}}
	got, err := c.spec(createIn{Name: "n", CPUs: 2, Env: map[string]string{"B": "2"}})
	want := api.Spec{
		Name: "n", Image: "mine", CPUs: 2, MemoryMiB: 1024, Env: map[string]string{"A": "1", "B": "2"},
		Labels: map[string]string{labelMade: labelValue}, Mounts: []api.Mount{{Host: "/x"}}, Ephemeral: true,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, _ = c.spec(createIn{FromSnapshot: "s", Keep: true}); got.Image != "" || got.MemoryMiB != 0 || got.Ephemeral {
		t.Errorf("of a snapshot %+v", got)
	}
	if s.o.Spec.Env["B"] != "1" {
		t.Error("the server's own spec was changed")
	}
}
