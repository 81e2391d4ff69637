package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type backgroundData struct {
	Processes []api.Process `json:"processes"`
}

type guestProcessData struct {
	Processes []smolvm.GuestProcess `json:"guest_processes"`
}

func (a *app) newPs() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ps SANDBOX",
		Short: "List processes of a sandbox",
		Long: `List the background processes of a sandbox, running and ended: those that
exec --detach started. With --all every process of the guest is listed.`,
		Example: `  smolvm ps web
  smolvm ps --all web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			if all {
				return listGuest(ctx, sb)
			}
			return listBackground(ctx, sb)
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "every process of the guest")
	return cmd
}

func listBackground(ctx context.Context, sb *smolvm.Sandbox) (outcome, error) {
	list, err := sb.Processes(ctx)
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: backgroundData{nonNil(list)}, text: func(w io.Writer) {
		now := time.Now()
		var rows [][]string
		for _, p := range list {
			rows = append(rows, []string{
				p.ID, fmt.Sprint(p.PID), dash(p.Tag), p.User, processState(p), age(now, p.Started), strings.Join(p.Argv, " "),
			})
		}
		table(w, "ID\tPID\tTAG\tUSER\tSTATE\tAGE\tCOMMAND", rows)
	}}, nil
}

func processState(p api.Process) string {
	switch {
	case p.Running:
		return "running"
	case p.Ended == nil:
		return "ended"
	case p.Ended.Signal != "":
		return p.Ended.Signal
	}
	return fmt.Sprintf("exit %d", p.Ended.ExitCode)
}

func listGuest(ctx context.Context, sb *smolvm.Sandbox) (outcome, error) {
	list, err := sb.GuestProcesses(ctx)
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: guestProcessData{nonNil(list)}, text: func(w io.Writer) {
		var rows [][]string
		for _, p := range list {
			cpu := time.Duration(p.CPUMS) * time.Millisecond
			rows = append(rows, []string{
				fmt.Sprint(p.PID), fmt.Sprint(p.PPID), p.User, p.State, size(p.RSSKiB << 10), cpu.String(), strings.Join(p.Argv, " "),
			})
		}
		table(w, "PID\tPPID\tUSER\tSTATE\tMEMORY\tCPU\tCOMMAND", rows)
	}}, nil
}
