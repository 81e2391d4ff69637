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

func (a *app) newInspect() *cobra.Command {
	return &cobra.Command{
		Use:     "inspect SANDBOX",
		Aliases: []string{"info"},
		Short:   "Describe a sandbox",
		Long: `Describe a sandbox: its state, sizes, isolation level, processes on the host, and
where the time of its last start went.`,
		Example: `  smolvm inspect web
  smolvm inspect web --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			info, err := sb.Info(ctx)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: sandboxData{info}, text: func(w io.Writer) { printInfo(w, info) }}, nil
		}),
	}
}

func printInfo(w io.Writer, s smolvm.Info) {
	printFields(w, [][]string{
		{"name", s.Name},
		{"id", s.ID},
		{"state", string(s.State)},
		{"reason", s.Reason},
		{"image", s.Image},
		{"image id", s.ImageID},
		{"cpus", fmt.Sprint(s.CPUs)},
		{"memory", mib(s.MemoryMiB)},
		{"disk", mib(s.DiskMiB)},
		{"labels", strings.Join(pairs(s.Labels), " ")},
		{"isolation", string(s.Isolation)},
		{"runs on", strings.Join(nonEmpty(s.VMM, s.Machine, string(s.Accel)), ", ")},
		{"created", moment(s.Created)},
		{"started", moment(s.Started)},
		{"expires", moment(s.Expires)},
		{"idle timeout", idle(s.IdleTimeoutSeconds)},
		{"when idle", whenIdle(s)},
		{"checkpoints", s.Checkpoint},
		{"made of", s.Origin},
		{"network", networkMode(s.Network)},
		{"ports", shownPorts(s.Ports)},
		{"mounts", shownMounts(s.Mounts)},
		{"secrets", shownSecrets(s.Secrets)},
		{"start took", timings(s.Timings)},
		{"pids", pids(s)},
	})
}

// printFields prints names and values, but for empty ones.
func printFields(w io.Writer, fields [][]string) {
	kept := fields[:0]
	for _, f := range fields {
		if f[1] != "" {
			kept = append(kept, f)
		}
	}
	table(w, "", kept)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339)
}

func idle(seconds float64) string {
	if seconds == 0 {
		return ""
	}
	return time.Duration(seconds * float64(time.Second)).String()
}

// whenIdle says what the end of the idle timeout does, where there is one.
func whenIdle(s smolvm.Info) string {
	if s.IdleTimeoutSeconds != 0 && s.IdleAction == "" {
		return api.IdleStop
	}
	return s.IdleAction
}

func pids(s smolvm.Info) string {
	if s.SupervisorPID == 0 {
		return ""
	}
	return fmt.Sprintf("supervisor %d, vmm %d", s.SupervisorPID, s.VMMPID)
}

// timings says where the time of a start went.
func timings(t smolvm.Timings) string {
	if t.TotalMS == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f ms (prepare %.0f, vmm %.0f, guest %.0f, setup %.0f)",
		t.TotalMS, t.PrepareMS, t.VMMMS, t.GuestMS, t.SetupMS)
}

func nonEmpty(words ...string) []string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, w)
		}
	}
	return out
}
