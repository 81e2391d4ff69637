package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type answerData struct {
	Answers []answered `json:"answers"`
}

type answered struct {
	ID    string    `json:"id"`
	Allow bool      `json:"allow"`
	For   string    `json:"for"`
	Rule  *api.Rule `json:"rule,omitempty"` // that stands first in the policy now
}

const answerReach = `--for says how far the answer reaches: once is for what waits now; sandbox puts a
rule for the same first in the policy, where it stays; pattern puts one for the
whole host, on all ports and paths.`

func (a *app) newNetworkApprove() *cobra.Command {
	return a.newAnswer(true, &cobra.Command{
		Use:   "approve SANDBOX QUESTION...",
		Short: "Allow what a sandbox waits for",
		Long: `Allow what a sandbox waits for. Questions are the names that network pending shows.
A name that is asked for is only told: what then goes there is asked about by
itself, unless --for makes a rule of the answer.

` + answerReach,
		Example: `  smolvm network approve web a7
  smolvm network approve web a7 a8 --for sandbox`,
	})
}

func (a *app) newNetworkDeny() *cobra.Command {
	return a.newAnswer(false, &cobra.Command{
		Use:   "deny SANDBOX QUESTION...",
		Short: "Deny what a sandbox waits for",
		Long: `Deny what a sandbox waits for. Questions are the names that network pending shows.
Programs see a refused connection, a name that does not exist, or for HTTP a page
that says why.

` + answerReach,
		Example: `  smolvm network deny web a7
  smolvm network deny web a7 --for pattern`,
	})
}

func (a *app) newAnswer(allow bool, cmd *cobra.Command) *cobra.Command {
	var reach string
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.ValidArgsFunction = a.completeQuestions
	cmd.RunE = a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
		var d answerData
		for _, id := range args[1:] {
			rule, err := sb.AnswerFlow(ctx, smolvm.FlowAnswer{ID: id, Allow: allow, For: reach})
			if err != nil {
				return outcome{}, err
			}
			d.Answers = append(d.Answers, answered{id, allow, reach, rule})
		}
		return outcome{data: d, text: func(w io.Writer) { printAnswers(w, d) }}, nil
	})
	cmd.Flags().StringVar(&reach, "for", api.AnswerOnce, "how far it reaches: once, sandbox or pattern")
	fixed(cmd, "for", api.AnswerOnce, api.AnswerSandbox, api.AnswerPattern)
	return cmd
}

func printAnswers(w io.Writer, d answerData) {
	for _, a := range d.Answers {
		word := map[bool]string{true: "allowed", false: "denied"}[a.Allow]
		if a.Rule == nil {
			fmt.Fprintf(w, "%s: %s once\n", clean(a.ID), word)
		} else {
			fmt.Fprintf(w, "%s: %s by rule %s\n", clean(a.ID), word, clean(a.Rule.ID))
		}
	}
}

// completeQuestions completes a sandbox, then its questions.
func (a *app) completeQuestions(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completeWith(a.completeSandboxes, 1)(cmd, args, word)
	}
	return completeWith(func(ctx context.Context) ([]string, error) {
		sb, err := a.sandbox(ctx, args[0])
		if err != nil {
			return nil, err
		}
		list, err := sb.PendingFlows(ctx)
		var ids []string
		for _, f := range list {
			ids = append(ids, cobra.CompletionWithDesc(f.ID, clean(flowLine(f))))
		}
		return ids, err
	}, 0)(cmd, args, word)
}
