package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type pendingData struct {
	Flows []smolvm.PendingFlow `json:"flows"`
}

// flowEvent is one line of network pending --follow --json before the last.
type flowEvent struct {
	Event string             `json:"event"` // "pending", "answered", "expired", "gone"
	Flow  smolvm.PendingFlow `json:"flow"`
	Allow bool               `json:"allow,omitempty"` // of answered
}

func (a *app) newNetworkPending() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "pending SANDBOX",
		Short: "List what a sandbox waits for an answer to",
		Long: `List the questions of a sandbox: flows, requests and names that a rule with the
action ask holds until somebody answers, with the process that wants them where it
is known. Flows that want the same share a question. One that nobody answers in
time is denied. Answer with network approve and network deny.

With --follow questions are printed as they come, and what became of them. With
--json as well each is an event on a line of its own, such as
{"event": "pending", "flow": ...}, and the last line is the usual object.`,
		Example: `  smolvm network pending web
  smolvm network pending web --follow`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			if follow {
				return outcome{}, a.followPending(ctx, sb)
			}
			list, err := sb.PendingFlows(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: pendingData{nonNil(list)}, text: func(w io.Writer) { printPending(w, list, time.Now()) }}, nil
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print questions as they come, until interrupted or until the sandbox stops")
	return cmd
}

func (a *app) followPending(ctx context.Context, sb *smolvm.Sandbox) error {
	return sb.WatchFlows(ctx, func(e smolvm.FlowEvent) error {
		if a.json {
			a.event(flowEvent{string(e.Kind), e.Flow, e.Allow})
			return nil
		}
		_, err := fmt.Fprintf(a.Out, "%-4s %-8s %s\n", clean(e.Flow.ID), flowWord(e), clean(flowLine(e.Flow)))
		return err
	})
}

// flowWord says what became of a question.
func flowWord(e smolvm.FlowEvent) string {
	switch {
	case e.Kind != api.FlowAnswered:
		return string(e.Kind)
	case e.Allow:
		return "allowed"
	}
	return "denied"
}

func flowLine(f smolvm.PendingFlow) string {
	line := flowTarget(f)
	if who := flowProcess(f); who != "" {
		line += ", by " + who
	}
	return line
}

// flowTarget says what is wanted.
func flowTarget(f smolvm.PendingFlow) string {
	where := f.Host
	if f.Port > 0 {
		where = net.JoinHostPort(f.Host, strconv.Itoa(f.Port))
	}
	switch {
	case f.Method != "":
		return f.Method + " " + where + f.Path
	case f.Proto == "dns":
		return "find " + where
	}
	return f.Proto + " " + where
}

func flowProcess(f smolvm.PendingFlow) string {
	if f.PID == 0 {
		return ""
	}
	return processText(&api.NetworkProcess{PID: f.PID, Argv: f.Argv})
}

func printPending(w io.Writer, list []smolvm.PendingFlow, now time.Time) {
	if len(list) == 0 {
		fmt.Fprintln(w, "nothing waits")
		return
	}
	var rows [][]string
	for _, f := range list {
		left := max(f.Expires.Sub(now), 0).Round(time.Second)
		rows = append(rows, []string{
			f.ID, flowTarget(f), strconv.Itoa(f.Flows), left.String(), cmp.Or(f.Rule, "-"), cmp.Or(flowProcess(f), "-"),
		})
	}
	table(w, "QUESTION\tWANTED\tFLOWS\tLEFT\tRULE\tPROCESS", rows)
}
