package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newHistory() *cobra.Command {
	return &cobra.Command{
		Use:   "history SANDBOX",
		Short: "Show the checkpoints of a sandbox",
		Long: `Show the steps of a sandbox as a tree: each stands below the one it came after,
and a rewind begins a branch. The step that the sandbox continues is marked with a
filled dot and head. Shown are its age, how long the sandbox stood still for it,
what it takes on disk, the exit status of the command, and its label. It works in
every state.`,
		Example: `  smolvm history web
  smolvm history web --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			h, err := a.history(ctx, args[0])
			if err != nil {
				return outcome{}, err
			}
			h.Steps = nonNil(h.Steps)
			return outcome{data: h, text: func(w io.Writer) { printHistory(w, h, time.Now()) }}, nil
		}),
	}
}

func printHistory(w io.Writer, h smolvm.History, now time.Time) {
	t := newTree(h)
	var rows [][]string
	for _, line := range t.lines() {
		s := line.step
		exit := "-"
		if s.Exit != nil {
			exit = fmt.Sprint(*s.Exit)
		}
		rows = append(rows, []string{line.drawn, age(now, s.Created), milliseconds(s.PauseMS), size(s.Bytes), exit, s.Label})
	}
	table(w, "STEP\tAGE\tPAUSE\tSIZE\tEXIT\tLABEL", rows)
}

// milliseconds prints a time that is short.
func milliseconds(ms float64) string { return fmt.Sprintf("%.0f ms", ms) }
