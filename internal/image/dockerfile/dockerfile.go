// Package dockerfile builds images from Dockerfiles. What RUN asks for happens
// in a sandbox; everything else happens here, on layers, without starting one.
//
//	i, err := dockerfile.Build(ctx, images, sandboxer, dockerfile.Options{
//		Name: "mine", Context: ".", Output: os.Stdout,
//	})
//
// Every step that changes files makes one layer. Layers are kept by what went
// into them: the layers below, the instruction, and the content of what it
// copies. A step whose layer is there is not done again, and where all are there
// no sandbox starts.
package dockerfile

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/progress"
)

// Sandboxer starts sandboxes for RUN.
type Sandboxer interface {
	// Sandbox starts a sandbox of an image of which only RootFS, Config and
	// Layers may be used: it has no name and no digest yet.
	Sandbox(ctx context.Context, i image.Image) (Sandbox, error)
}

// Sandbox is a running one. Its calls come one at a time.
type Sandbox interface {
	// Run runs a program and returns its exit code.
	Run(ctx context.Context, r RunRequest) (int, error)
	// Extract unpacks a tar over the root.
	Extract(ctx context.Context, tar io.Reader) error
	// Mark remembers the root as it is now.
	Mark(ctx context.Context) error
	// Changes writes what changed since the last Mark, as an OCI layer: a tar
	// in which removed names are whiteouts.
	Changes(ctx context.Context, w io.Writer) error
	// Close ends the sandbox. It may be called twice.
	Close() error
}

// RunRequest is a program to run in a sandbox.
type RunRequest struct {
	Argv   []string
	Env    []string // the whole environment
	Dir    string   // absolute
	User   string   // as in USER: name or number, with or without a group; empty means root
	Stdin  io.Reader
	Output io.Writer // of both streams
}

// Options say what is built.
type Options struct {
	Name     string            // the image's; required
	Context  string            // directory that COPY and ADD read; required
	File     string            // empty means Dockerfile in Context
	Target   string            // stage to build; empty means the last
	Args     map[string]string // values for ARG
	NoCache  bool              // do all steps again
	Output   io.Writer         // for people: steps and what RUN prints; nil means nowhere
	Progress progress.Func     // of pulls and unpacking; may be nil
	Limits   image.Limits
}

// Bounds of what a build reads.
const (
	maxDockerfile = 1 << 20
	maxStages     = 200
	maxFiles      = 1_000_000 // that one step copies
	maxPasswd     = 4 << 20
)

// Build builds an image. Class Invalid, with the line, for a Dockerfile that is
// wrong or asks for what we do not have. A RUN that exits with anything but 0
// has class Invalid and code build_step_failed.
func Build(ctx context.Context, im *image.Images, sb Sandboxer, o Options) (image.Image, error) {
	if o.Name == "" || o.Context == "" {
		return image.Image{}, api.Errorf(api.Invalid, "build image: a name and a context directory are needed")
	}
	if o.File == "" {
		o.File = filepath.Join(o.Context, "Dockerfile")
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	i, err := build(ctx, im, sb, o)
	if err != nil {
		return image.Image{}, wrap(err, "build image %q", o.Name)
	}
	return i, nil
}

func build(ctx context.Context, im *image.Images, sb Sandboxer, o Options) (image.Image, error) {
	f, err := parse(o)
	if err != nil {
		return image.Image{}, err
	}
	src, err := openContext(o.Context, o.File)
	if err != nil {
		return image.Image{}, err
	}
	defer src.close()
	b, err := im.NewBuild(o.Limits, o.Progress)
	if err != nil {
		return image.Image{}, err
	}
	defer b.Close()
	bd := &builder{im: im, b: b, sb: sb, o: o, f: f, src: src, stages: map[int]*stage{}, tmp: 0}
	s, err := bd.stage(ctx, f.target)
	if err != nil {
		return image.Image{}, err
	}
	bd.warnArgs()
	return b.Finish(ctx, o.Name, s.config, s.layers)
}

// builder is one build.
type builder struct {
	im     *image.Images
	b      *image.Build
	sb     Sandboxer
	o      Options
	f      file
	src    *contextDir
	stages map[int]*stage // that are built
	tmp    int            // number of files in the build's scratch directory
	used   map[string]bool
}

// say prints a line for people.
func (b *builder) say(format string, args ...any) {
	fmt.Fprintf(b.o.Output, format+"\n", args...)
}

// warnArgs names the values that no ARG asked for: mostly a typing error.
func (b *builder) warnArgs() {
	for name := range b.o.Args {
		if !b.used[name] {
			b.say("warning: no ARG %s in this build", name)
		}
	}
}

// scratch returns a fresh path in the build's scratch directory.
func (b *builder) scratch() string {
	b.tmp++
	return b.b.Scratch(fmt.Sprintf("file-%d", b.tmp))
}

// wrap puts an act before an error and keeps its class, code and recovery.
func wrap(err error, format string, args ...any) error {
	e := api.AsError(err)
	return api.Errorf(e.Class, "%s: %w", fmt.Sprintf(format, args...), err).WithCode(e.Code).WithRecovery("%s", e.Recovery)
}
