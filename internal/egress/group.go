package egress

import (
	"embed"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:embed groups/*.yaml
var groupFiles embed.FS

// Group is a list of names that one service needs, shipped as data.
type Group struct {
	Name    string      `yaml:"-"`
	About   string      `yaml:"about"`   // one line
	Risk    string      `yaml:"risk"`    // what an allowed guest could still do with it; may be empty
	Source  string      `yaml:"source"`  // where the service says what it needs
	Entries []GroupHost `yaml:"entries"` // at least one
	hosts   []host
}

// GroupHost is some domains of a group and the ports that they serve.
type GroupHost struct {
	Domains []string `yaml:"domains,flow"`
	Ports   []string `yaml:"ports,flow"` // empty: 443
}

// groups holds what was read from groupFiles, which never change.
var groups = sync.OnceValue(func() map[string]Group {
	files, err := groupFiles.ReadDir("groups")
	if err != nil {
		panic(err)
	}
	all := map[string]Group{}
	for _, f := range files {
		text, err := groupFiles.ReadFile(path.Join("groups", f.Name()))
		if err != nil {
			panic(err)
		}
		name := strings.TrimSuffix(f.Name(), ".yaml")
		g, err := parseGroup(name, text)
		if err != nil { // a test reads them all
			panic(fmt.Sprintf("group %s: %v", name, err))
		}
		all[name] = g
	}
	return all
})

func parseGroup(name string, text []byte) (Group, error) {
	g := Group{Name: name}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(&g); err != nil {
		return g, err
	}
	for _, e := range g.Entries {
		ports := []portRange{{443, 443}}
		if len(e.Ports) > 0 {
			ports = nil
		}
		for _, s := range e.Ports {
			p, err := parsePorts(s)
			if err != nil {
				return g, err
			}
			ports = append(ports, p)
		}
		for _, s := range e.Domains {
			p, err := parsePattern(s, true)
			if err != nil {
				return g, err
			}
			g.hosts = append(g.hosts, host{p, ports})
		}
	}
	return g, nil
}

// GroupNames lists the groups there are, sorted.
func GroupNames() []string { return slices.Sorted(maps.Keys(groups())) }

// GroupByName returns a group, and whether there is one of that name.
func GroupByName(name string) (Group, bool) {
	g, ok := groups()[name]
	g.Entries = slices.Clone(g.Entries)
	return g, ok
}
