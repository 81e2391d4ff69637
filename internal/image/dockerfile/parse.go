package dockerfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/smolvm/smolvm/api"
)

// file is a parsed Dockerfile.
type file struct {
	stages []instructions.Stage
	target int               // index of the stage to build
	meta   map[string]string // ARGs before the first FROM, with their values
	lex    *shell.Lex
}

// allowedFlags are the flags that we honour, by instruction. All others are
// refused: left out silently, they would change what is built.
func allowedFlags(instruction string) []string {
	switch strings.ToLower(instruction) {
	case "from":
		return []string{"platform"}
	case "copy":
		return []string{"from", "chown", "chmod", "link"}
	case "add":
		return []string{"chown", "chmod", "link"}
	case "healthcheck":
		return []string{"interval", "timeout", "start-period", "start-interval", "retries"}
	}
	return nil
}

func parse(o Options) (file, error) {
	text, err := readFile(o.File)
	if err != nil {
		return file{}, err
	}
	res, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return file{}, located(err)
	}
	if err := checkFlags(res.AST); err != nil {
		return file{}, err
	}
	stages, metaArgs, err := instructions.Parse(res.AST, nil)
	if err != nil {
		return file{}, located(err)
	}
	if len(stages) == 0 {
		return file{}, api.Errorf(api.Invalid, "%s has no FROM", o.File)
	}
	if len(stages) > maxStages {
		return file{}, api.Errorf(api.Invalid, "%s has more than %d stages", o.File, maxStages)
	}
	f := file{stages: stages, target: len(stages) - 1, lex: shell.NewLex(res.EscapeToken)}
	if f.meta, err = metaValues(f.lex, metaArgs, o.Args); err != nil {
		return file{}, err
	}
	if o.Target != "" {
		if f.target = f.find(o.Target, len(stages)); f.target < 0 {
			return file{}, api.Errorf(api.Invalid, "there is no stage %q", o.Target)
		}
	}
	return f, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, api.Errorf(api.NotFound, "%w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%w", err)
	}
	if len(b) > maxDockerfile {
		return nil, api.Errorf(api.Invalid, "%s is larger than %d bytes", path, maxDockerfile)
	}
	return b, nil
}

// checkFlags refuses flags before the parser sees them: some it would take.
func checkFlags(ast *parser.Node) error {
	for _, n := range ast.Children {
		for _, flag := range n.Flags {
			name, _, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
			if !slices.Contains(allowedFlags(n.Value), name) {
				return api.Errorf(api.Invalid, "line %d: %s does not have the flag --%s here", n.StartLine, strings.ToUpper(n.Value), name).
					WithCode("unsupported_instruction")
			}
		}
	}
	return nil
}

// located is an error of the parser with its line.
func located(err error) error {
	var loc *parser.LocationError
	if errors.As(err, &loc) && len(loc.Locations) > 0 && len(loc.Locations[0]) > 0 {
		return api.Errorf(api.Invalid, "line %d: %w", loc.Locations[0][0].Start.Line, err)
	}
	return api.Errorf(api.Invalid, "%w", err)
}

// metaValues gives the ARGs before the first FROM their values.
func metaValues(lex *shell.Lex, args []instructions.ArgCommand, given map[string]string) (map[string]string, error) {
	meta := platformArgs()
	for _, c := range args {
		for _, a := range c.Args {
			v, ok := given[a.Key]
			if !ok && a.Value != nil {
				var err error
				if v, _, err = lex.ProcessWord(*a.Value, env(meta)); err != nil {
					return nil, atLine(c.Location(), api.Errorf(api.Invalid, "ARG %s: %w", a.Key, err))
				}
				ok = true
			}
			if ok {
				meta[a.Key] = v
			}
		}
	}
	return meta, nil
}

// platformArgs are the ARGs that have a value without being given one.
func platformArgs() map[string]string {
	p := "linux/" + runtime.GOARCH
	return map[string]string{
		"TARGETPLATFORM": p, "TARGETOS": "linux", "TARGETARCH": runtime.GOARCH, "TARGETVARIANT": "",
		"BUILDPLATFORM": p, "BUILDOS": "linux", "BUILDARCH": runtime.GOARCH, "BUILDVARIANT": "",
	}
}

// find returns the index of a stage by name or number among the first n, or -1.
func (f file) find(name string, n int) int {
	for i := n - 1; i >= 0; i-- { // a later stage of the same name hides an earlier one
		if strings.EqualFold(f.stages[i].Name, name) {
			return i
		}
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < n {
		return i
	}
	return -1
}

// env is a set of variables as the expander wants it.
type env map[string]string

// Get returns a variable's value.
func (e env) Get(k string) (string, bool) { v, ok := e[k]; return v, ok }

// Keys returns the variables' names, sorted.
func (e env) Keys() []string {
	keys := make([]string, 0, len(e))
	for k := range e {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// atLine is an error with the line of the instruction that it is about.
func atLine(loc []parser.Range, err error) error {
	if len(loc) == 0 {
		return err
	}
	return wrap(err, "line %d", loc[0].Start.Line)
}
