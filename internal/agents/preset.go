// Package agents knows coding agents: how the command line of each gets into an
// image, which keys it takes and for which hosts, and what it must find in its home
// to begin to work at once.
//
//	p, err := agents.Find("claude")
//	err = agents.Recipe{Preset: p, Base: digest}.Write(ctx, dir) // a Dockerfile and what it copies
//	for _, f := range p.Files(agents.Start{Project: "/home/me/site", Keys: placeholders}) { ... }
//
// Versions are pinned here. What is written is about the program alone; nothing is
// taken from the home of the user.
package agents

import (
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// User is whose account the agents run in: the unprivileged one of the default
// image, because some of them refuse to work for root without asking.
const (
	User = "agent"
	Home = "/home/agent"
)

// What an agent's sandbox gets where nothing else is said. The largest program takes
// 400 MB of page cache and as much for itself, and a compiler or test run beside it
// wants the same again.
const (
	MemoryMiB = 2048
	CPUs      = 2
)

// Preset is a coding agent.
type Preset struct {
	Name    string // as people call it, and the program's
	Title   string
	Version string // that is installed where nobody asks for another

	// packages are what npm installs, with {version} and {arch} in them. Where the
	// package that people know is a starter for a program of the platform, that
	// program's package stands here: it needs neither Node nor what the other runs
	// when it is installed.
	packages []string
	// programs are the links in /usr/local/bin, to files below node_modules.
	programs map[string]string

	// Keys are alternatives: one is enough, all that are set are used.
	Keys []Key
	// Env is what the program finds in its environment.
	Env map[string]string

	files func(Start) []File
}

// Key is a variable that holds a key, and the hosts that it is meant for.
type Key struct {
	Name  string
	Hosts []string
}

// Start is what is known when an agent starts.
type Start struct {
	Project string            // the folder in the sandbox
	Keys    map[string]string // placeholders of the secrets, by name
}

// File is a file of the agent's user.
type File struct {
	Path    string // below Home
	Content string
}

// Files returns what the program must find in its home.
func (p Preset) Files(s Start) []File { return p.files(s) }

// Hosts returns the hosts of the named keys, each once.
func (p Preset) Hosts(keys []string) []string {
	var out []string
	for _, k := range p.Keys {
		if slices.Contains(keys, k.Name) {
			out = append(out, k.Hosts...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// KeyNames returns the names of all keys that the program takes.
func (p Preset) KeyNames() []string {
	var out []string
	for _, k := range p.Keys {
		out = append(out, k.Name)
	}
	return out
}

// Names returns the names of all presets.
func Names() []string {
	var out []string
	for _, p := range all() {
		out = append(out, p.Name)
	}
	return out
}

// Find returns the preset of a name. Class NotFound where there is none.
func Find(name string) (Preset, error) {
	for _, p := range all() {
		if p.Name == name {
			return p, nil
		}
	}
	return Preset{}, api.Errorf(api.NotFound, "agent %.80q is not known", name).
		WithRecovery("Known are: %s.", strings.Join(Names(), ", "))
}
