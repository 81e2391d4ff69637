package dockerfile

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/smolvm/smolvm/api"
)

// scriptRunner runs a script from its standard input that names its own
// interpreter: it must be a file for that.
const scriptRunner = `f=$(mktemp) && cat >"$f" && chmod 700 "$f" && { "$f" </dev/null; r=$?; rm -f "$f"; exit $r; }`

// run does RUN: in a sandbox, whose changes are the layer.
func (s *stage) run(ctx context.Context, c *instructions.RunCommand) error {
	req := s.request(c)
	parts := slices.Concat([]string{"RUN", req.Dir, req.User, strconv.Itoa(len(req.Argv))}, req.Argv, req.Env)
	if len(c.Files) > 0 {
		parts = append(parts, c.Files[0].Data)
	}
	return s.step(ctx, s.key(parts...), func(w io.Writer) error {
		if err := s.startSandbox(ctx); err != nil {
			return err
		}
		if err := s.sand.Mark(ctx); err != nil {
			return err
		}
		code, err := s.sand.Run(ctx, req)
		if err != nil {
			return err
		}
		if code != 0 {
			return api.Errorf(api.Invalid, "RUN exited with %d: %s", code, firstLine(strings.Join(c.CmdLine, " "))).
				WithCode("build_step_failed")
		}
		return s.sand.Changes(ctx, w)
	})
}

// startSandbox starts one with all layers so far, unless it runs.
func (s *stage) startSandbox(ctx context.Context) error {
	if s.sand != nil {
		return nil
	}
	i, err := s.b.Image(ctx, s.config, s.layers)
	if err != nil {
		return err
	}
	s.sand, err = s.sb.Sandbox(ctx, i)
	return err
}

// request is the program that a RUN asks for.
func (s *stage) request(c *instructions.RunCommand) RunRequest {
	r := RunRequest{Dir: s.dir(), User: s.config.User, Output: s.o.Output, Env: s.environ()}
	switch {
	case !c.PrependShell:
		r.Argv = c.CmdLine
	case len(c.Files) == 0:
		r.Argv = append(s.shell(), strings.Join(c.CmdLine, " "))
	case len(c.CmdLine) == 1 && strings.HasPrefix(strings.TrimSpace(c.CmdLine[0]), "<<") && len(c.Files) == 1:
		script := c.Files[0].Data
		if strings.HasPrefix(script, "#!") {
			r.Argv, r.Stdin = []string{"/bin/sh", "-c", scriptRunner}, strings.NewReader(script)
		} else {
			r.Argv = append(s.shell(), script)
		}
	default: // the shell reads its own here-documents
		line := strings.Join(c.CmdLine, " ")
		for _, f := range c.Files {
			line += "\n" + f.Data + f.Name
		}
		r.Argv = append(s.shell(), line)
	}
	return r
}

// environ is the environment of RUN, sorted: the same for the same variables.
func (s *stage) environ() []string {
	vars := s.vars()
	if _, ok := vars["PATH"]; !ok {
		vars["PATH"] = defaultPath
	}
	var out []string
	for k, v := range vars {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}
