package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/seal"
)

type networkLogOptions struct {
	follow, verify, denied bool
	since, host            string
	tail                   int
}

type networkLogData struct {
	Entries []smolvm.NetworkEntry `json:"entries"`
}

// entryEvent is one line of network log --follow --json before the last.
type entryEvent struct {
	Event string              `json:"event"` // "entry"
	Entry smolvm.NetworkEntry `json:"entry"`
}

func (a *app) newNetworkLog() *cobra.Command {
	var o networkLogOptions
	cmd := &cobra.Command{
		Use:   "log SANDBOX",
		Short: "Print what a sandbox did with its network",
		Long: `Print the record of a sandbox's network, one line for each event: questions for
names, flows, their ends, HTTP requests, with what was decided and why, the process
in the sandbox where it is known, and the names of secrets that were put in. It
works in every state of the sandbox. #12 is the number of a flow, the same in all
its events until the next start.

Entries are chained by hashes. --verify says whether the record is as it was
written: what was changed, moved, taken out or cut off is named, and the exit
status is 1. The record is bounded; the oldest entries go first, which is no flaw.

With --follow and --json each entry is an event on a line of its own,
{"event": "entry", "entry": ...}, and the last line is the usual object.`,
		Example: `  smolvm network log web
  smolvm network log web --denied --since 10m
  smolvm network log web -f --host example.com
  smolvm network log web --verify`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			if o.verify {
				return a.verifyNetworkLog(ctx, &o, args[0])
			}
			return a.networkLog(ctx, &o, args[0])
		}),
	}
	fs := cmd.Flags()
	fs.BoolVarP(&o.follow, "follow", "f", false, "go on until interrupted or until the sandbox stops")
	fs.BoolVar(&o.verify, "verify", false, "say whether the record is as it was written")
	fs.BoolVar(&o.denied, "denied", false, "what the sandbox did not get, and alarms")
	fs.StringVar(&o.since, "since", "", "from this `TIME` on, or this long ago: 10m, 2026-12-31T23:59:59Z")
	fs.StringVar(&o.host, "host", "", "an address, or a `NAME` with all names below it")
	fs.IntVar(&o.tail, "tail", 0, "print the last `ENTRIES`; 0 prints all")
	return cmd
}

// options returns what to read.
func (o *networkLogOptions) options(now time.Time) (smolvm.NetworkLogOptions, error) {
	n := smolvm.NetworkLogOptions{Denied: o.denied, Host: o.host, Follow: o.follow}
	if o.tail < 0 {
		return n, api.Errorf(api.Invalid, "tail of %d entries is negative", o.tail)
	}
	if o.tail > 0 && o.follow {
		return n, usagef("--tail and --follow exclude each other")
	}
	since, err := pastTime(o.since, now)
	n.Since = since
	return n, err
}

// pastTime reads a time, or how long before now it was; empty: the zero time.
func pastTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	var ago durationFlag
	if ago.Set(s) != nil {
		return time.Time{}, api.Errorf(api.Invalid, "time %.80q is none: write how long ago, such as 10m, or one such as 2026-12-31T23:59:59Z", s)
	}
	return now.Add(-time.Duration(ago)), nil
}

func (a *app) networkLog(ctx context.Context, o *networkLogOptions, ref string) (outcome, error) {
	opts, err := o.options(time.Now())
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	p := entryPrinter{colour: a.colour()}
	kept := []smolvm.NetworkEntry{}
	err = sb.NetworkLog(ctx, opts, func(e smolvm.NetworkEntry) error {
		switch {
		case o.tail > 0 && len(kept) == o.tail:
			kept = append(kept[1:], e)
		case o.tail > 0 || a.json && !o.follow:
			kept = append(kept, e)
		case a.json:
			a.event(entryEvent{"entry", e})
		default:
			_, err := io.WriteString(a.Out, p.line(e))
			return err
		}
		return nil
	})
	if err != nil {
		return outcome{}, err
	}
	return outcome{data: networkLogData{kept}, text: func(w io.Writer) {
		for _, e := range kept {
			io.WriteString(w, p.line(e))
		}
	}}, nil
}

func (a *app) verifyNetworkLog(ctx context.Context, o *networkLogOptions, ref string) (outcome, error) {
	if o.follow || o.denied || o.since != "" || o.host != "" || o.tail != 0 {
		return outcome{}, usagef("--verify looks at the whole record: leave the other flags out")
	}
	sb, err := a.sandbox(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	r, err := sb.VerifyNetworkLog(ctx)
	if err != nil {
		return outcome{}, err
	}
	result := outcome{data: r, text: func(w io.Writer) { printNetworkReport(w, r) }}
	if n := len(r.Problems) + r.More; n > 0 {
		return result, api.Errorf(api.Denied, "verify the network record of sandbox %q: it is not as it was written", ref).
			WithCode(seal.CodeAltered)
	}
	return result, nil
}

func printNetworkReport(w io.Writer, r smolvm.NetworkReport) {
	for _, p := range r.Problems {
		where := p.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", p.File, p.Line)
		}
		fmt.Fprintf(w, "%-8s %s: %s\n", p.Flaw, clean(where), clean(p.Text))
	}
	if r.More > 0 {
		fmt.Fprintf(w, "and %d more\n", r.More)
	}
	if len(r.Problems) > 0 {
		return
	}
	switch {
	case r.Entries == 0:
		fmt.Fprintln(w, "ok: no entries yet")
	default:
		fmt.Fprintf(w, "ok: %d entries, %d to %d, the last with hash %s\n", r.Entries, r.First, r.Last, r.Head)
	}
}
