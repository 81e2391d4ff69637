package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

// sandboxStats is what one sandbox uses.
type sandboxStats struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	smolvm.Stats
}

type statsData struct {
	Sandboxes []sandboxStats `json:"sandboxes"`
}

func (a *app) newStats() *cobra.Command {
	return &cobra.Command{
		Use:   "stats [SANDBOX...]",
		Short: "Show what sandboxes use",
		Long: `Show what sandboxes use, as the guest sees it and as the host does. Without a name
every running sandbox is shown.`,
		Example: `  smolvm stats
  smolvm stats web --json`,
		ValidArgsFunction: completeWith(a.completeSandboxes, 0),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			list, err := a.statsTargets(ctx, args)
			if err != nil {
				return outcome{}, err
			}
			d := statsData{Sandboxes: []sandboxStats{}}
			for _, sb := range list {
				s, err := measure(ctx, sb)
				if len(args) == 0 && (errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrUnavailable)) {
					continue // nobody asked for this one, and it ended meanwhile
				}
				if err != nil {
					return outcome{}, err
				}
				d.Sandboxes = append(d.Sandboxes, s)
			}
			return outcome{data: d, text: d.print}, nil
		}),
	}
}

func (a *app) statsTargets(ctx context.Context, refs []string) ([]*smolvm.Sandbox, error) {
	c := a.client()
	if len(refs) == 0 {
		running, err := c.List(ctx, smolvm.ListOptions{States: []api.State{api.StateRunning}})
		if err != nil {
			return nil, err
		}
		for _, s := range running {
			refs = append(refs, s.ID)
		}
	}
	var list []*smolvm.Sandbox
	for _, ref := range refs {
		sb, err := c.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		list = append(list, sb)
	}
	return list, nil
}

func measure(ctx context.Context, sb *smolvm.Sandbox) (sandboxStats, error) {
	info, err := sb.Info(ctx)
	if err != nil {
		return sandboxStats{}, err
	}
	s, err := sb.Stats(ctx)
	return sandboxStats{info.ID, info.Name, s}, err
}

func (d statsData) print(w io.Writer) {
	var rows [][]string
	for _, s := range d.Sandboxes {
		traffic, flows := networkCells(s.Network)
		rows = append(rows, []string{
			s.Name,
			size((s.MemoryTotalKiB-s.MemoryAvailableKiB)<<10) + " of " + size(s.MemoryTotalKiB<<10),
			size((s.DiskTotalKiB-s.DiskFreeKiB)<<10) + " of " + size(s.DiskTotalKiB<<10),
			s.Load1,
			fmt.Sprint(s.Processes),
			(time.Duration(s.UptimeMS) * time.Millisecond).Round(time.Second).String(),
			size(s.HostRSSKiB << 10),
			size(s.HostDiskKiB << 10),
			(time.Duration(s.HostCPUMS) * time.Millisecond).Round(100 * time.Millisecond).String(),
			traffic,
			flows,
		})
	}
	table(w, "NAME\tMEMORY\tDISK\tLOAD\tPROCESSES\tUP\tHOST MEMORY\tHOST DISK\tHOST CPU\tNETWORK\tFLOWS", rows)
}

// networkCells say what passed the network and what became of flows.
func networkCells(n *api.NetworkStats) (traffic, flows string) {
	if n == nil {
		return "-", "-"
	}
	traffic = fmt.Sprintf("%s up, %s down", size(int64(n.SentBytes)), size(int64(n.ReceivedBytes)))
	flows = fmt.Sprintf("%d open, %d denied", n.Open, n.Denied)
	if n.Held > 0 {
		flows += fmt.Sprintf(", %d waiting", n.Held)
	}
	return traffic, flows
}
