package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/setup"
	"github.com/smolvm/smolvm/internal/store"
)

type setupOptions struct {
	setup.Options
	check bool
}

func (a *app) newSetup() *cobra.Command {
	var o setupOptions
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Install what sandboxes need",
		Long: `Install what sandboxes need: QEMU and two tools as Debian packages, a guest kernel,
and the default image. It says what it will do, then does it; what is there
already is left alone. Only the packages take root, by sudo where it asks nothing;
else the command to run is printed.

With --check nothing is done: the exit status is 1 if something is missing.`,
		Example: `  smolvm setup --check
  smolvm setup
  smolvm setup --kernel ./linux-image-6.1.0-amd64.deb
  smolvm setup --image docker.io/library/python:3.12`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.setup(ctx, &o) }),
	}
	cmd.Flags().BoolVar(&o.check, "check", false, "only say what is missing")
	cmd.Flags().StringVar(&o.Kernel, "kernel", "", "`FILE` of a guest kernel: a linux-image package, a vmlinuz or a vmlinux")
	cmd.Flags().StringVar(&o.Image, "image", "", "image to have (default "+api.DefaultImage+")")
	return cmd
}

func (a *app) setup(ctx context.Context, o *setupOptions) (outcome, error) {
	h, err := a.host()
	if err != nil {
		return outcome{}, err
	}
	plan, err := h.Plan(ctx, o.Options)
	if err != nil {
		return outcome{}, err
	}
	if o.check {
		out := outcome{data: plan, text: func(w io.Writer) { printPlan(w, plan) }}
		if !plan.Complete() {
			return out, api.Errorf(api.Unavailable, "something is missing").
				WithCode("missing_dependency").WithRecovery("Run: smolvm setup")
		}
		return out, nil
	}
	say := func(format string, args ...any) {
		if !a.json {
			a.progress.clear()
			fmt.Fprintf(a.Out, format+"\n", args...)
		}
	}
	for _, s := range plan.Steps {
		say("%s", planLine(s))
	}
	err = plan.Run(ctx, setup.Watcher{
		Progress: a.progress.report,
		Done:     func(s setup.Step) { say("%s", planLine(s)) },
	})
	if err != nil {
		return outcome{data: plan}, err
	}
	say("ready: smolvm run -- python3 -c 'print(6 * 7)'")
	return outcome{data: plan}, nil
}

func printPlan(w io.Writer, p setup.Plan) {
	for _, s := range p.Steps {
		fmt.Fprintln(w, planLine(s))
	}
}

func planLine(s setup.Step) string {
	word := "will"
	if s.Done {
		word = "ok  "
	}
	return fmt.Sprintf("%s  %-8s  %s", word, s.Name, clean(s.Detail))
}

// host returns this machine as setup and doctor see it.
func (a *app) host() (setup.Host, error) {
	if err := thisMachine("look at the host"); err != nil {
		return setup.Host{}, err
	}
	s, err := store.Open("")
	if err != nil {
		return setup.Host{}, err
	}
	return setup.Host{Store: s, Driver: a.build.Driver, Images: setupImages{a}}, nil
}

// setupImages gives setup the image store.
type setupImages struct{ a *app }

func (i setupImages) Has(ctx context.Context, ref string) error {
	im, err := i.a.images()
	if err != nil {
		return err
	}
	_, err = im.Resolve(ctx, ref)
	return err
}

func (i setupImages) Get(ctx context.Context, ref string, p progress.Func) error {
	im, err := i.a.images()
	if err != nil {
		return err
	}
	if ref == api.DefaultImage {
		_, err = im.EnsureBase(ctx, image.BaseOptions{Progress: p})
	} else {
		_, err = im.Pull(ctx, ref, image.PullOptions{Progress: p})
	}
	return err
}
