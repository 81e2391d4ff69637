package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type removeOptions struct {
	all, force, dryRun bool
}

// removeData is the data of rm.
type removeData struct {
	Targets []string        `json:"targets"`
	Deleted []string        `json:"deleted"`
	Failed  []removeFailure `json:"failed"`
	Summary removeSummary   `json:"summary"`
	DryRun  bool            `json:"dry_run"`
}

type removeFailure struct {
	ID    string `json:"vm_id"`
	Error string `json:"error"`
}

type removeSummary struct {
	Targets int `json:"target_count"`
	Deleted int `json:"deleted_count"`
	Failed  int `json:"failed_count"`
}

func (a *app) newRemove() *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:     "rm SANDBOX...",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove sandboxes and everything in them",
		Long: `Remove sandboxes, whatever they do, and everything in them. A sandbox that cannot
be removed does not keep the others from being removed.`,
		Example: `  smolvm rm web
  smolvm rm --all --dry-run
  smolvm rm --all`,
		ValidArgsFunction: completeWith(a.completeSandboxes, 0),
		RunE:              a.do(func(ctx context.Context, args []string) (outcome, error) { return a.remove(ctx, &o, args) }),
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "every sandbox")
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "a sandbox that is not there is no error")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say what would be removed")
	return cmd
}

func (a *app) remove(ctx context.Context, o *removeOptions, args []string) (outcome, error) {
	targets, err := a.removeTargets(ctx, o, args)
	if err != nil {
		return outcome{}, err
	}
	d := removeData{Targets: nonNil(targets), Deleted: []string{}, Failed: []removeFailure{}, DryRun: o.dryRun}
	var errs []error
	for _, name := range targets {
		if err := a.removeOne(ctx, o, name); err != nil {
			errs = append(errs, err)
			d.Failed = append(d.Failed, removeFailure{name, err.Error()})
		} else if !o.dryRun {
			d.Deleted = append(d.Deleted, name)
		}
	}
	d.Summary = removeSummary{len(d.Targets), len(d.Deleted), len(d.Failed)}
	return outcome{data: d, text: d.print}, errors.Join(errs...)
}

func (a *app) removeTargets(ctx context.Context, o *removeOptions, args []string) ([]string, error) {
	switch {
	case o.all && len(args) > 0:
		return nil, usagef("--all and names exclude each other")
	case !o.all && len(args) == 0:
		return nil, usagef("no sandbox is named")
	case !o.all:
		return args, nil
	}
	list, err := a.client().List(ctx, smolvm.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}

func (a *app) removeOne(ctx context.Context, o *removeOptions, name string) error {
	sb, err := a.sandbox(ctx, name)
	if o.force && errors.Is(err, api.ErrNotFound) {
		return nil
	}
	if err != nil || o.dryRun {
		return err
	}
	return sb.Remove(ctx)
}

func (d removeData) print(w io.Writer) {
	if d.DryRun {
		for _, name := range d.Targets {
			fmt.Fprintln(w, "would remove", clean(name))
		}
		return
	}
	for _, name := range d.Deleted {
		fmt.Fprintln(w, clean(name))
	}
}
