package clients

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
)

// tomlServers is the table of servers (Codex's config.toml).
const tomlServers = "mcp_servers"

// headerRE finds the name of a table.
var headerRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\s*\[([^\[\]]+)\]\s*(#.*)?$`) })

// mergeTOML puts a table [mcp_servers.NAME] into TOML: in place of the one that is
// there and of those below it, else at the end.
func mergeTOML(old []byte, name string, e Entry) ([]byte, error) {
	table, err := tomlTable(name, e)
	if err != nil {
		return nil, err
	}
	var kept []string
	put, inside, where := -1, false, ""
	var text tomlText
	for line := range strings.Lines(string(old)) {
		if !text.open {
			if m := headerRE().FindStringSubmatch(line); m != nil {
				where = plain(m[1])
				inside = where == tomlServers+"."+name || strings.HasPrefix(where, tomlServers+"."+name+".")
				if inside && put < 0 {
					put = len(kept)
				}
			} else if inline(where, line, name) {
				return nil, api.Errorf(api.Invalid, "its %s are not written as tables", tomlServers).
					WithRecovery("Add the server by hand; without --write it is printed.")
			}
		}
		text.line(line)
		if !inside {
			kept = append(kept, line)
		}
	}
	if text.open {
		return nil, api.Errorf(api.Invalid, "it is no TOML: a text does not end")
	}
	if put < 0 {
		if put = len(kept); put > 0 {
			table = "\n" + table
			if !strings.HasSuffix(kept[put-1], "\n") {
				table = "\n" + table
			}
		}
	} else if put < len(kept) {
		table += "\n"
	}
	return []byte(strings.Join(slices.Insert(kept, put, table), "")), nil
}

// plain is a table's name without quotes and spaces.
func plain(name string) string {
	return strings.NewReplacer(`"`, "", `'`, "", " ", "", "\t", "").Replace(name)
}

// inline reports whether a line says of servers, or of this one, in one line what
// else is a table.
func inline(table, line, name string) bool {
	key, _, ok := strings.Cut(line, "=")
	if !ok || strings.HasPrefix(strings.TrimSpace(line), "#") {
		return false
	}
	key = plain(key)
	switch table {
	case "":
		return key == tomlServers || strings.HasPrefix(key, tomlServers+".")
	case tomlServers:
		return key == name || strings.HasPrefix(key, name+".")
	}
	return false
}

// tomlText follows texts of several lines, in which nothing is a table.
type tomlText struct {
	open bool
	mark string
}

func (t *tomlText) line(line string) {
	for {
		if t.open {
			_, rest, found := strings.Cut(line, t.mark)
			if !found {
				return
			}
			t.open, line = false, rest
		}
		i := strings.IndexAny(line, `"'#`)
		if i < 0 || line[i] == '#' {
			return
		}
		if mark := strings.Repeat(line[i:i+1], 3); strings.HasPrefix(line[i:], mark) {
			t.open, t.mark, line = true, mark, line[i+3:]
			continue
		}
		// A text of one line.
		quote, j := line[i], i+1
		for j < len(line) && line[j] != quote {
			if line[j] == '\\' && quote == '"' {
				j++
			}
			j++
		}
		line = line[min(j+1, len(line)):]
	}
}

// tomlTable writes the table of a server.
func tomlTable(name string, e Entry) (string, error) {
	for _, s := range append(slices.Collect(maps.Values(e.Env)), append(e.Args, e.Command)...) {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", api.Errorf(api.Invalid, "%q holds a control character", s)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[%s.%s]\ncommand = %s\n", tomlServers, name, quoted(e.Command))
	words := make([]string, len(e.Args))
	for i, a := range e.Args {
		words[i] = quoted(a)
	}
	fmt.Fprintf(&b, "args = [%s]\n", strings.Join(words, ", "))
	if len(e.Env) > 0 {
		fmt.Fprintf(&b, "\n[%s.%s.env]\n", tomlServers, name)
		for _, k := range slices.Sorted(maps.Keys(e.Env)) {
			fmt.Fprintf(&b, "%s = %s\n", k, quoted(e.Env[k]))
		}
	}
	return b.String(), nil
}

// quoted is a basic string (TOML 1.0, "String"): without control characters only
// quote and backslash are escaped.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.ToValidUTF8(s, "\uFFFD")) + `"`
}
