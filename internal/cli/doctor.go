package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/setup"
)

func (a *app) newDoctor() *cobra.Command {
	var fork bool
	var image string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine lacks for sandboxes",
		Long: `Look at everything that a sandbox needs: QEMU, KVM, kernel, default image, disk
space, and what the kernel of this machine offers for isolation. For what is
missing the next step is said. Nothing is changed.

The exit status is 1 if a sandbox could not start. A warning means that one
starts, but with less than there could be.

With --fork it proves instead, on this machine, that copies of a sandbox share
nothing that must be their own: it makes a sandbox, forks it, and compares random
numbers, machine ids, boot ids, host names, SSH host keys and clocks. The exit
status is 1 if anything is not as it must be. Nothing is left.`,
		Example: `  smolvm doctor
  smolvm doctor --fork
  smolvm doctor --json`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = a.do(func(ctx context.Context, _ []string) (outcome, error) {
		switch {
		case fork:
			return a.doctorFork(ctx, image)
		case cmd.Flags().Changed("image"):
			return outcome{}, usagef("--image does nothing without --fork")
		}
		return a.doctor(ctx)
	})
	cmd.Flags().BoolVar(&fork, "fork", false, "prove that copies of a sandbox share nothing that must be their own")
	cmd.Flags().StringVar(&image, "image", "", "image to fork a sandbox of (default "+api.DefaultImage+")")
	complete(cmd, "image", a.completeImages)
	return cmd
}

func (a *app) doctor(ctx context.Context) (outcome, error) {
	h, err := a.host()
	if err != nil {
		return outcome{}, err
	}
	r := h.Doctor(ctx)
	o := outcome{data: r, text: func(w io.Writer) { printReport(w, r) }}
	if !r.Summary.OK {
		return o, api.Errorf(api.Unavailable, "a sandbox cannot start here: %d of %d checks failed",
			r.Summary.Failures, len(r.Checks)).
			WithCode("missing_dependency").WithRecovery("Run: smolvm setup")
	}
	return o, nil
}

func printReport(w io.Writer, r setup.Report) {
	var rows [][]string
	for _, c := range r.Checks {
		rows = append(rows, []string{string(c.Status), c.Name, c.Detail})
		if c.Fix != "" {
			rows = append(rows, []string{"", "", "next: " + c.Fix})
		}
	}
	table(w, "", rows)
	if r.Summary.OK {
		fmt.Fprintf(w, "\nA sandbox would be isolated by level %q.\n", r.Isolation)
	}
}
