package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// newSandbox makes the commands as the Python original of smolvm spells them.
// They do what the others do; their data has the original's shape.
func (a *app) newSandbox() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "The same commands, spelled as the original smolvm does",
		Long: `The commands as the Python original of smolvm spells them, with its flags and the
shape of its JSON. Flags that choose what does not exist here are refused.`,
		Example: `  smolvm sandbox create --name web --memory 1024 --disk-size 4096
  smolvm sandbox exec web 'ls | wc -l'
  smolvm sandbox delete web`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newOldCreate(), a.newOldList(), a.newOldInfo(), a.newOldStop(), a.newOldExec(),
		a.newOldRemove(), a.newOldSnapshots(), a.newOldFile(), a.newShell(), a.newLogs(), a.newEnv())
	one := func(verb, short string, f act) {
		cmd.AddCommand(a.newOldAct(verb, short, f))
	}
	one("start", "Start a stopped sandbox", func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Start(ctx) })
	one("pause", "Halt a sandbox; memory is kept", func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Pause(ctx) })
	one("resume", "Let a paused sandbox go on", func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Resume(ctx) })
	return cmd
}

// oldStatus is a state in the original's words. It cannot hibernate: what has no
// memory and is brought back by start is stopped to it.
func oldStatus(s api.State) string {
	switch s {
	case api.StateCreating:
		return "created"
	case api.StateHibernated:
		return string(api.StateStopped)
	}
	return string(s)
}

// oldVM is the short form of a sandbox in the original's data.
type oldVM struct {
	Name   string `json:"name"`
	Status string `json:"status"`
}

type oldVMData struct {
	VM oldVM `json:"vm"`
}

// bounded bounds a context; zero leaves it as it is.
func bounded(ctx context.Context, d durationFlag) (context.Context, context.CancelFunc) {
	if d == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(d))
}

// ignored registers flags of the original that change nothing here: the guest
// channel needs no choice and no key.
func ignored(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		cmd.Flags().String(name, "", "accepted, without effect")
		must(cmd.Flags().MarkHidden(name))
	}
}

func bootTimeout(cmd *cobra.Command, d *durationFlag) {
	cmd.Flags().Var(d, "boot-timeout", "give up when the sandbox is not up after this time (default: never)")
}

func (a *app) newOldAct(verb, short string, f act) *cobra.Command {
	var boot durationFlag
	cmd := &cobra.Command{
		Use:               verb + " VM",
		Short:             short,
		Long:              short + ". The same as: smolvm " + verb + ".",
		Example:           "  smolvm sandbox " + verb + " web",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			ctx, cancel := bounded(ctx, boot)
			defer cancel()
			return a.oldAct(ctx, args[0], f)
		}),
	}
	if verb == "start" {
		bootTimeout(cmd, &boot)
	}
	return cmd
}

func (a *app) oldAct(ctx context.Context, ref string, f act) (outcome, error) {
	info, err := a.actOn(ctx, ref, f)
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		data: oldVMData{oldVM{info.Name, oldStatus(info.State)}},
		text: func(w io.Writer) { fmt.Fprintln(w, clean(info.Name)) },
	}, nil
}

func (a *app) newOldStop() *cobra.Command {
	var o stopFlags
	cmd := a.newOldAct("stop", "Stop a sandbox; its disk is kept", func(ctx context.Context, sb *smolvm.Sandbox) error {
		return sb.Stop(ctx, o.stop())
	})
	o.register(cmd)
	return cmd
}

type oldCreateOptions struct {
	specFlags
	backend, machine string
	boot             durationFlag
}

type oldCreateData struct {
	VM       oldCreatedVM      `json:"vm"`
	Next     map[string]string `json:"next"`
	Warnings []string          `json:"warnings"`
}

type oldCreatedVM struct {
	oldVM
	Image   string    `json:"os"`
	Started time.Time `json:"started_at,omitzero"`
}

func (a *app) newOldCreate() *cobra.Command {
	var o oldCreateOptions
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a sandbox and start it",
		Long:    "Make a sandbox and start it. The same as: smolvm create.",
		Example: `  smolvm sandbox create --name web --memory 1024 --disk-size 4096`,
		Args:    cobra.NoArgs,
		RunE:    a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.oldCreate(ctx, &o) }),
	}
	o.register(a, cmd)
	fs := cmd.Flags()
	fs.Var(&o.disk, "disk-size", "the same as --disk")
	fs.StringVar(&o.backend, "backend", "auto", "auto or qemu")
	fs.StringVar(&o.machine, "qemu-machine", "auto", "auto: the accelerator decides")
	fs.Bool("yes", false, "accepted, without effect")
	must(fs.MarkHidden("yes"))
	bootTimeout(cmd, &o.boot)
	ignored(cmd, "comm-channel")
	return cmd
}

func (a *app) oldCreate(ctx context.Context, o *oldCreateOptions) (outcome, error) {
	if o.backend != "auto" && o.backend != "qemu" {
		return outcome{}, api.Errorf(api.Invalid, "backend %.80q does not exist", o.backend).WithRecovery("Use auto or qemu.")
	}
	if o.machine != "auto" {
		return outcome{}, api.Errorf(api.Invalid, "machine %.80q cannot be chosen", o.machine).
			WithRecovery("Leave --qemu-machine out; --accel chooses the accelerator.")
	}
	spec, err := o.spec()
	if err != nil {
		return outcome{}, err
	}
	ctx, cancel := bounded(ctx, o.boot)
	defer cancel()
	sb, err := a.client().Create(ctx, spec)
	if err != nil {
		return outcome{}, err
	}
	info, err := sb.Info(ctx)
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		data: oldCreateData{
			VM: oldCreatedVM{oldVM{info.Name, oldStatus(info.State)}, info.Image, info.Started},
			Next: map[string]string{
				"shell_command": "smolvm sandbox shell " + info.Name,
				"info_command":  "smolvm sandbox info " + info.Name,
			},
			Warnings: []string{},
		},
		text: func(w io.Writer) { fmt.Fprintln(w, clean(info.Name)) },
	}, nil
}

type oldExecOptions struct {
	timeout, boot durationFlag
	start         bool
}

// oldExecTimeout is how long the original lets a command run.
const oldExecTimeout = 30 * time.Second

func (a *app) newOldExec() *cobra.Command {
	o := oldExecOptions{timeout: durationFlag(oldExecTimeout)}
	cmd := &cobra.Command{
		Use:   "exec VM COMMAND...",
		Short: "Run a command line in a sandbox",
		Long: `Join the words to a command line and run it in the user's login shell, for at most
30 seconds unless told otherwise. smolvm exec runs a command without a shell.`,
		Example: `  smolvm sandbox exec web 'ls | wc -l'
  smolvm sandbox exec --start --timeout 60 web make test`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) (outcome, error) {
		argv, err := againFlags(cmd, args[1:])
		if err != nil {
			return outcome{}, err
		}
		return a.oldExec(ctx, &o, args[0], argv)
	})
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().Var(&o.timeout, "timeout", "end the command after this time")
	cmd.Flags().BoolVar(&o.start, "start", false, "start the sandbox first where it is stopped")
	bootTimeout(cmd, &o.boot)
	return cmd
}

func (a *app) oldExec(ctx context.Context, o *oldExecOptions, ref string, argv []string) (outcome, error) {
	if len(argv) == 0 {
		return outcome{}, usagef("no command is given")
	}
	f := commandFlags{shell: string(smolvm.LoginShell), timeout: o.timeout}
	c, err := a.command(&f, argv)
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	if o.start {
		boot, cancel := bounded(ctx, o.boot)
		defer cancel()
		if err := sb.Start(boot); err != nil {
			return outcome{}, err
		}
	}
	data, err := a.execute(ctx, sb, c)
	// The original exits with 1 where it failed itself.
	var exit *exitErr
	if errors.As(err, &exit) && exit.code == exitSmolvm {
		err = withStartHint(exit.err, ref)
	}
	return commandOutcome(data), err
}

// withStartHint names --start where a sandbox does not run.
func withStartHint(err error, ref string) error {
	if !errors.Is(err, api.ErrUnavailable) {
		return err
	}
	e := *api.AsError(err)
	return e.WithRecovery("smolvm sandbox exec --start %s ...", shellQuote(ref))
}

func (a *app) newOldRemove() *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:               "delete [VM...]",
		Short:             "Remove sandboxes and everything in them",
		Long:              "Remove sandboxes and everything in them. The same as: smolvm rm, but that\n--all --json wants --force.",
		Example:           `  smolvm sandbox delete web`,
		ValidArgsFunction: completeWith(a.completeSandboxes, 0),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			if o.all && a.json && !o.force && !o.dryRun {
				return outcome{}, api.Errorf(api.Denied, "remove every sandbox: nobody is asked with --json").
					WithRecovery("Add --force.")
			}
			return a.remove(ctx, &o, args)
		}),
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "every sandbox")
	cmd.Flags().BoolVar(&o.force, "force", false, "a sandbox that is not there is no error")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say what would be removed")
	return cmd
}

// oldStates reads the original's names of states.
func oldStates(status string) ([]api.State, error) {
	if status == "" {
		return nil, nil
	}
	var states []api.State
	for _, s := range api.States() {
		if oldStatus(s) == status {
			states = append(states, s)
		}
	}
	if len(states) > 0 {
		return states, nil
	}
	return nil, api.Errorf(api.Invalid, "status %.80q is not known", status).
		WithRecovery("Use %s.", strings.Join([]string{"created", "running", "paused", "stopped", "error"}, ", "))
}
