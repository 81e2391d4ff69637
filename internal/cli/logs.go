package cli

import (
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// defaultTail is how many lines logs prints unless told otherwise.
const defaultTail = 200

type logsOptions struct {
	tail   int
	follow bool
}

type logsData struct {
	Lines []string `json:"lines"`
}

// lineEvent is one line of logs --follow --json before the last.
type lineEvent struct {
	Event string `json:"event"` // "line"
	Line  string `json:"line"`
}

func (a *app) newLogs() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs SANDBOX",
		Short: "Print the console of a sandbox",
		Long: `Print the end of the console of a sandbox: what its kernel and its agent said. One
that continues a template did not boot itself, and has little to say. The output of
a background process is printed by attach.

With --follow and --json each line is an event on a line of its own,
{"event": "line", "line": ...}, and the last line is the usual object.`,
		Example: `  smolvm logs web
  smolvm logs --tail 20 web
  smolvm logs -f web`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE:              a.do(func(ctx context.Context, args []string) (outcome, error) { return a.logs(ctx, &o, args[0]) }),
	}
	cmd.Flags().IntVar(&o.tail, "tail", defaultTail, "print the last `LINES`; 0 prints all that is kept")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on until interrupted or until the sandbox stops")
	return cmd
}

func (a *app) logs(ctx context.Context, o *logsOptions, ref string) (outcome, error) {
	if o.tail < 0 {
		return outcome{}, api.Errorf(api.Invalid, "tail of %d lines is negative", o.tail)
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	var kept []string
	w := &lineWriter{line: func(s string) {
		switch {
		case !a.json:
			// The guest wrote this: its escapes must not reach a terminal.
			io.WriteString(a.Out, escape(s, "\t")+"\n")
		case o.follow:
			a.event(lineEvent{"line", s})
		default:
			kept = append(kept, s)
		}
	}}
	err = sb.Console(ctx, w, smolvm.ConsoleOptions{Tail: o.tail, Follow: o.follow})
	w.flush()
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: logsData{nonNil(kept)}}, nil
}

// maxLine bounds a line of a console, in bytes; a longer one is cut into several.
const maxLine = 64 << 10

// lineWriter calls line for each line that is written.
type lineWriter struct {
	line func(string)
	buf  bytes.Buffer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.buf.Write(p)
	for {
		b := w.buf.Bytes()
		n := bytes.IndexByte(b, '\n')
		if n < 0 && len(b) < maxLine {
			return len(p), nil
		}
		if n < 0 {
			w.line(string(w.buf.Next(maxLine)))
			continue
		}
		w.line(strings.TrimRight(string(w.buf.Next(n+1)), "\r\n"))
	}
}

// flush gives what stands after the last line's end.
func (w *lineWriter) flush() {
	if w.buf.Len() > 0 {
		w.line(strings.TrimRight(w.buf.String(), "\r"))
		w.buf.Reset()
	}
}
