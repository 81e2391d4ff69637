package dockerfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/rootfs"
)

// stage is one that is being built, or is.
type stage struct {
	*builder
	config image.Config
	layers []image.Layer
	args   map[string]string // ARGs of this stage
	label  string            // for people, such as "2/3"

	tree *rootfs.Tree // of all layers; nil until one asks
	sand Sandbox      // with all layers; nil until one must run, and when it is behind
}

// defaultPath is PATH where neither base nor Dockerfile sets it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// stage builds a stage, with those that it builds on, once.
func (b *builder) stage(ctx context.Context, n int) (*stage, error) {
	if s, ok := b.stages[n]; ok {
		return s, nil
	}
	spec := b.f.stages[n]
	s := &stage{builder: b, args: map[string]string{}, label: fmt.Sprintf("%d/%d", n+1, len(b.f.stages))}
	if err := s.from(ctx, spec, n); err != nil {
		return nil, atLine(spec.Location, err)
	}
	defer s.endSandbox()
	for _, c := range spec.Commands {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b.say("[%s] %s", s.label, firstLine(fmt.Sprint(c)))
		if err := s.do(ctx, c, n); err != nil {
			return nil, atLine(c.Location(), err)
		}
	}
	b.stages[n] = s
	return s, nil
}

// from begins a stage with what FROM names.
func (s *stage) from(ctx context.Context, spec instructions.Stage, n int) error {
	base, _, err := s.f.lex.ProcessWord(spec.BaseName, env(s.f.meta))
	if err != nil {
		return api.Errorf(api.Invalid, "FROM %s: %w", spec.BaseName, err)
	}
	s.markUsed(s.f.meta)
	if base == "" {
		return api.Errorf(api.Invalid, "FROM %s names no image", spec.BaseName)
	}
	if err := s.checkPlatform(spec.Platform); err != nil {
		return err
	}
	s.say("[%s] FROM %s", s.label, base)
	if base == "scratch" {
		return nil
	}
	if i := s.f.find(base, n); i >= 0 && strings.EqualFold(s.f.stages[i].Name, base) {
		parent, err := s.stage(ctx, i)
		if err != nil {
			return err
		}
		s.config, s.layers = clone(parent.config), slices.Clone(parent.layers)
		return nil
	}
	i, err := s.useImage(ctx, base)
	if err != nil {
		return err
	}
	s.config, s.layers = clone(i.Config), slices.Clone(i.Layers)
	return nil
}

// useImage takes an image that is here, or pulls it.
func (b *builder) useImage(ctx context.Context, ref string) (image.Image, error) {
	i, err := b.b.Use(ctx, ref)
	if !errors.Is(err, api.ErrNotFound) {
		return i, err
	}
	b.say("pulling %s", ref)
	if i, err = b.im.Pull(ctx, ref, image.PullOptions{Limits: b.o.Limits, Progress: b.o.Progress}); err != nil {
		return image.Image{}, err
	}
	return b.b.Use(ctx, i.Digest)
}

// checkPlatform refuses a platform whose programs could not run here.
func (s *stage) checkPlatform(want string) error {
	want, _, err := s.f.lex.ProcessWord(want, env(s.f.meta))
	if err != nil {
		return api.Errorf(api.Invalid, "FROM --platform: %w", err)
	}
	if here := platformArgs()["TARGETPLATFORM"]; want != "" && want != here {
		return api.Errorf(api.Invalid, "FROM --platform=%s: only %s can be built here", want, here).WithCode("wrong_platform")
	}
	return nil
}

// clone copies a config so that a stage cannot change another's.
func clone(c image.Config) image.Config {
	c.Env, c.Cmd, c.Entrypoint = slices.Clone(c.Env), slices.Clone(c.Cmd), slices.Clone(c.Entrypoint)
	c.Labels, c.Shell = maps.Clone(c.Labels), slices.Clone(c.Shell)
	c.ExposedPorts, c.Volumes = slices.Clone(c.ExposedPorts), slices.Clone(c.Volumes)
	return c
}

// do does one instruction.
func (s *stage) do(ctx context.Context, c instructions.Command, n int) error {
	if x, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		vars := s.vars()
		err := x.Expand(func(word string) (string, error) {
			out, _, err := s.f.lex.ProcessWord(word, env(vars))
			return out, err
		})
		if err != nil {
			return api.Errorf(api.Invalid, "%s: %w", c.Name(), err)
		}
	}
	switch c := c.(type) {
	case *instructions.RunCommand:
		return s.run(ctx, c)
	case *instructions.CopyCommand:
		return s.copy(ctx, transfer{SourcesAndDest: c.SourcesAndDest, from: c.From, chown: c.Chown, chmod: c.Chmod}, n)
	case *instructions.AddCommand:
		return s.copy(ctx, transfer{SourcesAndDest: c.SourcesAndDest, chown: c.Chown, chmod: c.Chmod, add: true}, n)
	case *instructions.WorkdirCommand:
		return s.workdir(ctx, c.Path)
	case *instructions.ArgCommand:
		s.arg(c)
		return nil
	}
	return s.configure(c)
}

// configure does an instruction that changes no file.
func (s *stage) configure(c instructions.Command) error {
	switch c := c.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			s.config.Env = setEnv(s.config.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			if s.config.Labels == nil {
				s.config.Labels = map[string]string{}
			}
			s.config.Labels[kv.Key] = kv.Value
		}
	case *instructions.UserCommand:
		s.config.User = c.User
	case *instructions.CmdCommand:
		s.config.Cmd = s.commandLine(c.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		s.config.Entrypoint = s.commandLine(c.ShellDependantCmdLine)
		s.config.Cmd = nil // a base's arguments are not for the new program
	case *instructions.ShellCommand:
		s.config.Shell = c.Shell
	case *instructions.ExposeCommand:
		s.config.ExposedPorts = merge(s.config.ExposedPorts, ports(c.Ports))
	case *instructions.VolumeCommand:
		s.config.Volumes = merge(s.config.Volumes, c.Volumes)
	case *instructions.StopSignalCommand:
		s.config.StopSignal = c.Signal
	case *instructions.MaintainerCommand, *instructions.HealthCheckCommand, *instructions.OnbuildCommand:
		s.say("warning: %s has no effect here", strings.ToUpper(c.Name()))
	default:
		return api.Errorf(api.Invalid, "%s is not known here", strings.ToUpper(c.Name())).WithCode("unsupported_instruction")
	}
	return nil
}

func ports(list []string) []string {
	out := make([]string, len(list))
	for i, p := range list {
		if out[i] = p; !strings.Contains(p, "/") {
			out[i] += "/tcp"
		}
	}
	return out
}

// merge returns the sorted union of two lists.
func merge(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func setEnv(list []string, key, value string) []string {
	for i, kv := range list {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			list[i] = key + "=" + value
			return list
		}
	}
	return append(list, key+"="+value)
}

// arg declares ARGs: the value is the caller's, else the instruction's, else
// that of the same ARG before the first FROM.
func (s *stage) arg(c *instructions.ArgCommand) {
	for _, a := range c.Args {
		v, ok := s.o.Args[a.Key]
		if !ok && a.Value != nil {
			v, ok = *a.Value, true
		}
		if !ok {
			v, ok = s.f.meta[a.Key]
		}
		s.markUsed(map[string]string{a.Key: ""})
		if ok {
			s.args[a.Key] = v
		}
	}
}

// markUsed notes ARGs that somebody declared.
func (b *builder) markUsed(args map[string]string) {
	if b.used == nil {
		b.used = map[string]bool{}
	}
	for k := range args {
		b.used[k] = true
	}
}

// vars are the variables that instructions may use: ENV wins over ARG.
func (s *stage) vars() map[string]string {
	vars := maps.Clone(s.args)
	for _, kv := range s.config.Env {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	return vars
}

// commandLine is what CMD or ENTRYPOINT runs.
func (s *stage) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	return append(s.shell(), strings.Join(c.CmdLine, " "))
}

func (s *stage) shell() []string {
	if len(s.config.Shell) > 0 {
		return slices.Clone(s.config.Shell)
	}
	return []string{"/bin/sh", "-c"}
}

// dir is the working directory.
func (s *stage) dir() string {
	if s.config.WorkingDir == "" {
		return "/"
	}
	return s.config.WorkingDir
}

// abs makes a path of the image absolute.
func (s *stage) abs(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", s.dir(), p)
}

// key names a step by what is below it and what goes into it.
func (s *stage) key(parts ...string) string {
	h := sha256.New()
	for _, p := range append([]string{"step 1", image.Chain(s.layers)}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// step adds the layer of a step: the one that the cache has, or a new one that
// make writes.
func (s *stage) step(ctx context.Context, key string, make func(w io.Writer) error) error {
	if !s.o.NoCache {
		if l, ok := s.b.Cached(key); ok {
			s.say("[%s] cached", s.label)
			s.endSandbox() // it does not have this layer
			s.layers, s.tree = append(s.layers, l), nil
			return nil
		}
	}
	pr, pw := io.Pipe()
	done := go1(func() error {
		err := make(pw)
		pw.CloseWithError(err)
		return err
	})
	l, err := s.b.Add(ctx, key, pr)
	pr.CloseWithError(io.ErrClosedPipe)
	// The maker's error is the cause where both ended with one.
	if merr := <-done; merr != nil && !errors.Is(merr, io.ErrClosedPipe) {
		err = merr
	}
	if err != nil {
		return err
	}
	s.layers = append(s.layers, l)
	return s.grow(ctx, l)
}

// go1 runs f in a goroutine of its own and delivers its error.
func go1(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// grow adds a layer to the tree, where there is one.
func (s *stage) grow(ctx context.Context, l image.Layer) error {
	if s.tree == nil {
		return nil
	}
	return s.tree.Add(ctx, s.b.Open([]image.Layer{l})[0])
}

// root returns the tree of all layers.
func (s *stage) root(ctx context.Context) (*rootfs.Tree, error) {
	if s.tree != nil {
		return s.tree, nil
	}
	t := rootfs.NewTree(s.o.Limits)
	for _, l := range s.b.Open(s.layers) {
		if err := t.Add(ctx, l); err != nil {
			return nil, err
		}
	}
	s.tree = t
	return t, nil
}

func (s *stage) endSandbox() {
	if s.sand != nil {
		s.sand.Close()
		s.sand = nil
	}
}

// firstLine is a line for people of an instruction that may have many.
func firstLine(s string) string {
	line, rest, more := strings.Cut(s, "\n")
	if more && strings.TrimSpace(rest) != "" {
		line += " ..."
	}
	return line
}
