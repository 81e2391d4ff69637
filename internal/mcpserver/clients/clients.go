// Package clients knows where programs that speak the Model Context Protocol keep
// the list of their servers, and adds one to it:
//
//	c, err := clients.Find("cursor")
//	path, err := c.Path(clients.Places{Home: home})
//	merged, err := c.Merge(old, "smolvm", clients.Entry{Command: "/usr/bin/smolvm", Args: []string{"mcp"}})
//
// What else stands in the file stays as it is, to the byte: comments, order, layout.
package clients

import (
	"encoding/json"
	"path/filepath"
	"slices"

	"github.com/smolvm/smolvm/api"
)

// Entry says how a client starts a server.
type Entry struct {
	Command string            `json:"command"` // absolute path
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env,omitempty"`
}

// Places are the directories that files of clients are in.
type Places struct {
	Home    string
	Config  string // empty: Home/.config
	Codex   string // of Codex; empty: Home/.codex
	Project string // where not empty, the file is the one of this project
}

// Client is a program that starts servers.
type Client struct {
	Name  string // as on the command line
	Title string

	path  func(Places) string
	key   string // in JSON, the object that holds the servers
	typed bool   // an entry says that it is stdio
	toml  bool
}

// All lists the clients that are known.
func All() []Client {
	return []Client{
		{Name: "claude", Title: "Claude Code", key: "mcpServers", typed: true, path: func(p Places) string {
			return inProject(p, ".mcp.json", filepath.Join(p.Home, ".claude.json"))
		}},
		{Name: "cursor", Title: "Cursor", key: "mcpServers", path: func(p Places) string {
			return inProject(p, ".cursor/mcp.json", filepath.Join(p.Home, ".cursor", "mcp.json"))
		}},
		{Name: "vscode", Title: "VS Code", key: "servers", typed: true, path: func(p Places) string {
			config := p.Config
			if config == "" {
				config = filepath.Join(p.Home, ".config")
			}
			return inProject(p, ".vscode/mcp.json", filepath.Join(config, "Code", "User", "mcp.json"))
		}},
		{Name: "codex", Title: "Codex", toml: true, path: func(p Places) string {
			dir := p.Codex
			if dir == "" {
				dir = filepath.Join(p.Home, ".codex")
			}
			return inProject(p, ".codex/config.toml", filepath.Join(dir, "config.toml"))
		}},
	}
}

func inProject(p Places, file, user string) string {
	if p.Project != "" {
		return filepath.Join(p.Project, file)
	}
	return user
}

// Names lists the names of All.
func Names() []string {
	var names []string
	for _, c := range All() {
		names = append(names, c.Name)
	}
	return names
}

// Find returns the client of a name. Class Invalid where it is not known.
func Find(name string) (Client, error) {
	all := All()
	if i := slices.IndexFunc(all, func(c Client) bool { return c.Name == name }); i >= 0 {
		return all[i], nil
	}
	return Client{}, api.Errorf(api.Invalid, "client %.80q is not known", name).
		WithRecovery("Known are claude, cursor, vscode and codex. Others take the same words: start the program smolvm with the argument mcp.")
}

// Path is the client's file.
func (c Client) Path(p Places) string { return c.path(p) }

// Merge returns the file with the server in it, in place of one of the same name.
// old may be empty. Class Invalid where old cannot be understood; it should then be
// left alone.
func (c Client) Merge(old []byte, name string, e Entry) ([]byte, error) {
	if c.toml {
		return mergeTOML(old, name, e)
	}
	return mergeJSON(old, []string{c.key, name}, c.entry(e))
}

// entry is an Entry as the client wants it.
func (c Client) entry(e Entry) any {
	if !c.typed {
		return e
	}
	return struct {
		Type string `json:"type"`
		Entry
	}{"stdio", e}
}

// encode writes a value as JSON with an indentation, and < and > as they are.
func encode(v any, prefix string) ([]byte, error) {
	b, err := json.MarshalIndent(v, prefix, indent)
	if err != nil {
		return nil, err
	}
	for _, r := range []struct{ from, to string }{{`\u003c`, "<"}, {`\u003e`, ">"}, {`\u0026`, "&"}} {
		b = replace(b, r.from, r.to)
	}
	return b, nil
}
