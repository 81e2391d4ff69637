package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func (a *app) newEvents() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happens to sandboxes",
		Long: `Print the state of each sandbox, and with --follow then what happens to sandboxes:
they are created, change their state or anything else that inspect tells, also by
dying, and are removed. A state that does not last may be left out.

With --json each is an event on a line of its own, such as
{"kind": "changed", "time": ..., "sandbox": ...}. The kinds are present, ready
where all those have been told, created, changed, removed, and lost where more
happened than was kept. The last line is the usual object.`,
		Example: `  smolvm events
  smolvm events -f --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return outcome{}, a.events(ctx, follow) }),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until interrupted")
	return cmd
}

func (a *app) events(ctx context.Context, follow bool) error {
	if follow {
		return a.client().WatchSandboxes(ctx, a.printEvent)
	}
	list, err := a.client().List(ctx, smolvm.ListOptions{})
	for _, info := range list {
		if err == nil {
			err = a.printEvent(smolvm.SandboxEvent{Kind: api.SandboxPresent, Time: time.Now(), Sandbox: info})
		}
	}
	return err
}

func (a *app) printEvent(e smolvm.SandboxEvent) error {
	if a.json {
		a.event(e)
		return nil
	}
	if e.Kind == api.SandboxReady {
		return nil
	}
	s := e.Sandbox
	line := fmt.Sprintf("%s %-7s", e.Time.Local().Format(time.TimeOnly), e.Kind)
	if s.ID != "" {
		line += fmt.Sprintf(" %s %-10s %s", s.ID, s.State, clean(s.Name))
	}
	if s.Reason != "" {
		line += " (" + clean(s.Reason) + ")"
	}
	_, err := fmt.Fprintln(a.Out, line)
	return err
}
