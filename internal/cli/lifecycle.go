package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// act is one thing that is done to one sandbox.
type act func(ctx context.Context, sb *smolvm.Sandbox) error

// actOn does something to the sandbox of an id or name, and describes it then.
func (a *app) actOn(ctx context.Context, ref string, f act) (smolvm.Info, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return smolvm.Info{}, err
	}
	before, err := sb.Info(ctx)
	if err != nil {
		return smolvm.Info{}, err
	}
	if err := f(ctx, sb); err != nil {
		return smolvm.Info{}, err
	}
	info, err := sb.Info(ctx)
	if before.Ephemeral && errors.Is(err, api.ErrNotFound) {
		before.State = api.StateStopped // and, with that, removed
		return before, nil
	}
	return info, err
}

// onOne runs an act on the sandbox that the first argument names.
func (a *app) onOne(f act) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) (outcome, error) {
		info, err := a.actOn(ctx, args[0], f)
		if err != nil {
			return outcome{}, err
		}
		return described(info), nil
	})
}

// onEach runs an act on every sandbox that the arguments name. One that fails keeps
// no other from it. The data of one is as of onOne; that of several is a list.
func (a *app) onEach(f act) func(*cobra.Command, []string) error {
	one := a.onOne(f)
	several := a.do(func(ctx context.Context, refs []string) (outcome, error) {
		list := []smolvm.Info{}
		var errs []error
		for _, ref := range refs {
			info, err := a.actOn(ctx, ref, f)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			list = append(list, info)
		}
		return listed(list), errors.Join(errs...)
	})
	return func(cmd *cobra.Command, refs []string) error {
		if len(refs) == 1 {
			return one(cmd, refs)
		}
		return several(cmd, refs)
	}
}

// listed gives several sandboxes; to people, their names.
func listed(list []smolvm.Info) outcome {
	return outcome{data: listData{list}, text: func(w io.Writer) { printList(w, list, true) }}
}

func (a *app) newStart() *cobra.Command {
	return &cobra.Command{
		Use:   "start SANDBOX",
		Short: "Start a stopped or hibernated sandbox",
		Long: `Boot a sandbox that is stopped or in error; its disk is as it was left. One that
is hibernated continues where it was, processes included. A running sandbox is left
as it is.`,
		Example:           `  smolvm start web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Start(ctx) }),
	}
}

func (a *app) newPause() *cobra.Command {
	return &cobra.Command{
		Use:               "pause SANDBOX",
		Short:             "Halt a sandbox; memory is kept",
		Long:              `Halt the virtual CPUs of a sandbox. Its memory and processes are kept for resume.`,
		Example:           `  smolvm pause web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Pause(ctx) }),
	}
}

func (a *app) newResume() *cobra.Command {
	return &cobra.Command{
		Use:               "resume SANDBOX",
		Short:             "Let a paused sandbox go on",
		Long:              `Let a paused sandbox go on where it was.`,
		Example:           `  smolvm resume web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.onOne(func(ctx context.Context, sb *smolvm.Sandbox) error { return sb.Resume(ctx) }),
	}
}
