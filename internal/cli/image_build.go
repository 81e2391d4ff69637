package cli

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/dockerfile"
	"github.com/smolvm/smolvm/internal/undo"
)

type imageBuildOptions struct {
	tag, file, target string
	args              []string
	noCache           bool
	cpus              int
	memory, disk      mibFlag
	network           networkFlags
}

// buildMemory is what RUN steps get, in MiB: package managers want more than the
// programs that they install.
const buildMemory = 1024

func (a *app) newImageBuild() *cobra.Command {
	o := imageBuildOptions{memory: buildMemory, disk: api.DefaultDiskMiB}
	cmd := &cobra.Command{
		Use:   "build -t NAME [CONTEXT]",
		Short: "Build an image from a Dockerfile",
		Long: `Build an image from a Dockerfile and the files of a directory, by default this one.
RUN happens in a sandbox, so nothing a step does touches this machine. Each step
that changes files makes a layer, which is kept by what went into it and not made
again. RUN reaches the public internet, or what the flags say.

Understood are FROM, RUN, COPY, ADD, ENV, WORKDIR, USER, ARG, LABEL, CMD and
ENTRYPOINT, with several stages. Steps and what they print go to standard error.`,
		Example: `  smolvm image build -t tools .
  smolvm image build -t tools -f Dockerfile.dev --build-arg LEVEL=3 src
  smolvm image build -t tools --allow @debian .
  smolvm run --image tools -- tool --version`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return a.imageBuild(ctx, &o, dir)
		}),
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.tag, "tag", "t", "", "`NAME` of the image; required")
	fs.StringVarP(&o.file, "file", "f", "", "`FILE` to build from (default: Dockerfile in the context)")
	fs.StringVar(&o.target, "target", "", "`STAGE` to build (default: the last)")
	fs.StringArrayVar(&o.args, "build-arg", nil, "value `KEY=VALUE` of an ARG")
	fs.BoolVar(&o.noCache, "no-cache", false, "do every step again")
	fs.IntVar(&o.cpus, "cpus", api.DefaultCPUs, "virtual CPUs for RUN")
	fs.Var(&o.memory, "memory", "memory for RUN")
	fs.Var(&o.disk, "disk", "writable disk for RUN")
	o.network.register(cmd)
	a.registerBudget(cmd)
	return cmd
}

func (a *app) imageBuild(ctx context.Context, o *imageBuildOptions, dir string) (outcome, error) {
	if o.tag == "" {
		return outcome{}, usagef("the image has no name: give it one with --tag")
	}
	args, err := keyValues("build argument", o.args)
	if err != nil {
		return outcome{}, err
	}
	spec := smolvm.Spec{CPUs: o.cpus, MemoryMiB: int(o.memory), DiskMiB: int(o.disk), Ephemeral: true}
	spec.NoTemplate = true // each step's image is used once
	if spec.Network, err = o.network.network(); err != nil {
		return outcome{}, err
	}
	if err := spec.WithDefaults().Check(); err != nil {
		return outcome{}, err
	}
	im, err := a.images()
	if err != nil {
		return outcome{}, err
	}
	return oneImage(dockerfile.Build(ctx, im, builder{a.client(), im, spec}, dockerfile.Options{
		Name: o.tag, Context: dir, File: o.file, Target: o.target, Args: args, NoCache: o.noCache,
		Output: a.Err, Progress: a.progress.report,
	}))
}

// builder starts the sandboxes of a build.
type builder struct {
	client *smolvm.Client
	images *image.Images
	spec   smolvm.Spec
}

// Sandbox starts a sandbox of an image that is being made.
func (b builder) Sandbox(ctx context.Context, i image.Image) (dockerfile.Sandbox, error) {
	ref, err := b.images.ScratchRef(i)
	if err != nil {
		return nil, err
	}
	b.spec.Image = ref
	sb, err := b.client.Create(ctx, b.spec)
	if err != nil {
		return nil, err
	}
	return buildSandbox{sb}, nil
}

// buildSandbox is a sandbox as a build uses it; Mark is the SDK's.
type buildSandbox struct{ *smolvm.Sandbox }

// Run runs a program and returns its exit status.
func (s buildSandbox) Run(ctx context.Context, r dockerfile.RunRequest) (int, error) {
	env := make(map[string]string, len(r.Env))
	for _, kv := range r.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	out := &sharedWriter{w: r.Output}
	res, err := s.Sandbox.Run(ctx, smolvm.Command{
		Argv: r.Argv, Env: env, Dir: r.Dir, User: r.User, Stdin: r.Stdin, Stdout: out, Stderr: out,
	})
	if err != nil {
		return 0, err
	}
	return res.ExitCode, nil
}

// Extract unpacks a tar over the root.
func (s buildSandbox) Extract(ctx context.Context, tar io.Reader) error {
	_, err := s.TarIn(ctx, "/", tar, smolvm.CopyOptions{})
	return err
}

// Changes writes what changed since the last Mark.
func (s buildSandbox) Changes(ctx context.Context, w io.Writer) error {
	r, err := s.Sandbox.Changes(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// Close removes the sandbox, also after the build was interrupted.
func (s buildSandbox) Close() error {
	ctx, cancel := undo.Context(context.Background())
	defer cancel()
	return s.Remove(ctx)
}

// sharedWriter lets two streams write to one writer.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
