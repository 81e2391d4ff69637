package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/forkcheck"
)

// forkCheckMemory is enough for a shell, and quick to copy.
const forkCheckMemory = 256

func (a *app) doctorFork(ctx context.Context, image string) (outcome, error) {
	r, err := forkcheck.Run(ctx, a.client(), forkcheck.Options{
		Spec: smolvm.Spec{Image: image, MemoryMiB: forkCheckMemory},
		Tell: func(step string) { a.progress.tell(step, 0, 0) },
	})
	if err != nil {
		return outcome{}, err
	}
	o := outcome{data: r, text: func(w io.Writer) { printForkReport(w, r) }}
	if r.OK {
		return o, nil
	}
	var bad []string
	for _, p := range r.Properties {
		if !p.OK {
			bad = append(bad, p.Name)
		}
	}
	return o, api.Errorf(api.Internal, "copies of a sandbox are not as they must be: %s", strings.Join(bad, ", ")).
		WithCode("unclean_fork").WithRecovery("Do not fork sandboxes that keep secrets here; report what is printed above.")
}

func printForkReport(w io.Writer, r forkcheck.Report) {
	var rows [][]string
	for _, p := range r.Properties {
		status := "ok"
		if !p.OK {
			status = "FAIL"
		}
		rows = append(rows, []string{status, p.Name, p.Detail})
		if !p.OK {
			for i, v := range p.Values {
				rows = append(rows, []string{"", "", r.Sandboxes[i] + ": " + dash(v)})
			}
		}
	}
	table(w, "", rows)
	if r.OK {
		fmt.Fprintf(w, "\nA sandbox and its %d children share nothing that must be their own.\n", len(r.Sandboxes)-1)
	}
}
