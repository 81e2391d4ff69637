package cli

import (
	"context"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

type attachOptions struct {
	interactive, noFollow, noLog bool
}

// outputEvent is one line of attach --json before the last.
type outputEvent struct {
	Event  string `json:"event"` // "stdout" or "stderr"
	Data   string `json:"data,omitempty"`
	Base64 []byte `json:"base64,omitempty"` // instead of Data, where it is not text
}

func (a *app) newAttach() *cobra.Command {
	var o attachOptions
	cmd := &cobra.Command{
		Use:   "attach SANDBOX PROCESS",
		Short: "Watch a background process",
		Long: `Print the kept output of a background process and what it writes from now on, until
it ends, and exit with its status. Interrupting attach leaves the process alone.
With --no-follow only the kept output is printed.

With --json each piece of output is an event on a line of its own, {"event":
"stdout", "data": ...}, and the last line is the usual object.`,
		Example: `  smolvm attach web p1
  smolvm attach --no-follow web p1
  echo quit | smolvm attach -i web p1`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			return a.attach(ctx, &o, args[0], args[1])
		}),
	}
	cmd.Flags().BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input on")
	cmd.Flags().BoolVar(&o.noFollow, "no-follow", false, "end after the kept output")
	cmd.Flags().BoolVar(&o.noLog, "no-log", false, "leave the kept output out")
	return cmd
}

func (a *app) attach(ctx context.Context, o *attachOptions, ref, id string) (outcome, error) {
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	ao := smolvm.AttachOptions{Stdout: a.Out, Stderr: a.Err, NoFollow: o.noFollow, NoLog: o.noLog}
	if o.interactive {
		ao.Stdin = a.In
	}
	if a.json {
		ao.Stdout, ao.Stderr = eventWriter{a, "stdout"}, eventWriter{a, "stderr"}
	}
	ended, err := sb.Attach(ctx, id, ao)
	if err != nil {
		return outcome{}, notOurs(err)
	}
	if ended.ExitCode != 0 {
		err = &guestExit{ended.ExitCode}
	}
	return outcome{data: ended}, err
}

// eventWriter prints what is written as events.
type eventWriter struct {
	a    *app
	name string
}

func (w eventWriter) Write(p []byte) (int, error) {
	e := outputEvent{Event: w.name}
	if utf8.Valid(p) {
		e.Data = string(p)
	} else {
		e.Base64 = p
	}
	w.a.event(e)
	return len(p), nil
}

// waitProcess waits for a background process without its output.
func waitProcess(ctx context.Context, sb *smolvm.Sandbox, id string) (outcome, error) {
	ended, err := sb.Attach(ctx, id, smolvm.AttachOptions{Stdout: io.Discard, Stderr: io.Discard, NoLog: true})
	if err != nil {
		return outcome{}, err
	}
	if ended.ExitCode != 0 {
		err = &guestExit{ended.ExitCode}
	}
	return outcome{data: ended}, err
}
