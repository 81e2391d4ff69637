package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type listOptions struct {
	states, labels []string
	quiet          bool
}

type listData struct {
	Sandboxes []smolvm.Info `json:"sandboxes"`
}

func (a *app) newList() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List sandboxes",
		Long: `List sandboxes, oldest first. --state and --label narrow the list: one of the
states, and all of the labels.`,
		Example: `  smolvm ls
  smolvm ls --state running --label team=search
  smolvm rm $(smolvm ls -q --state stopped)`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.list(ctx, &o) }),
	}
	cmd.Flags().StringSliceVar(&o.states, "state", nil, "only sandboxes in this `STATE`: creating, running, paused, hibernated, stopped or error")
	cmd.Flags().StringArrayVarP(&o.labels, "label", "l", nil, "only sandboxes with this label `KEY=VALUE`")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print names alone")
	fixed(cmd, "state", stateNames()...)
	return cmd
}

func (a *app) list(ctx context.Context, o *listOptions) (outcome, error) {
	states, err := parseStates(o.states)
	if err != nil {
		return outcome{}, err
	}
	labels, err := keyValues("label", o.labels)
	if err != nil {
		return outcome{}, err
	}
	list, err := a.client().List(ctx, smolvm.ListOptions{States: states, Labels: labels})
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		data: listData{nonNil(list)},
		text: func(w io.Writer) { printList(w, list, o.quiet) },
	}, nil
}

func printList(w io.Writer, list []smolvm.Info, quiet bool) {
	if quiet {
		for _, s := range list {
			fmt.Fprintln(w, clean(s.Name))
		}
		return
	}
	now := time.Now()
	var rows [][]string
	for _, s := range list {
		rows = append(rows, []string{
			s.Name, s.ID, string(s.State), s.Image, fmt.Sprint(s.CPUs), mib(s.MemoryMiB), mib(s.DiskMiB),
			dash(string(s.Isolation)), age(now, s.Created), dash(strings.Join(pairs(s.Labels), ",")),
		})
	}
	table(w, "NAME\tID\tSTATE\tIMAGE\tCPUS\tMEMORY\tDISK\tISOLATION\tAGE\tLABELS", rows)
}

func stateNames() []string {
	var names []string
	for _, s := range api.States() {
		names = append(names, string(s))
	}
	return names
}

func parseStates(words []string) ([]api.State, error) {
	var states []api.State
	for _, w := range words {
		if !slices.Contains(stateNames(), w) {
			return nil, api.Errorf(api.Invalid, "state %.80q is not known", w).
				WithRecovery("Use %s.", strings.Join(stateNames(), ", "))
		}
		states = append(states, api.State(w))
	}
	return states, nil
}
