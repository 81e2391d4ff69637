package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

type oldFileData struct {
	ID    string `json:"vm_id"`
	Local string `json:"local_path"`
	Guest string `json:"guest_path"`
}

func (a *app) newOldFile() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "file",
		Short: "Copy one file into or out of a sandbox",
		Long:  "Copy one file into or out of a sandbox. smolvm cp copies directories too.",
		Example: `  smolvm sandbox file upload web ./in.csv /srv/in.csv
  smolvm sandbox file download web /srv/out.csv ./out.csv`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(
		a.newOldTransfer("upload VM LOCAL GUEST", "Copy a file into a sandbox",
			"  smolvm sandbox file upload web ./in.csv /srv/in.csv",
			func(args []string) oldFileData { return oldFileData{args[0], args[1], args[2]} }, upload),
		a.newOldTransfer("download VM GUEST LOCAL", "Copy a file out of a sandbox",
			"  smolvm sandbox file download web /srv/out.csv ./out.csv",
			func(args []string) oldFileData { return oldFileData{args[0], args[2], args[1]} }, download),
	)
	return cmd
}

type oldTransfer func(ctx context.Context, sb *smolvm.Sandbox, d oldFileData, parents bool) error

func (a *app) newOldTransfer(use, short, example string, data func([]string) oldFileData, f oldTransfer) *cobra.Command {
	var bare bool
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		Long:              short + ". Missing directories are made unless told otherwise.",
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			d := data(args)
			sb, err := a.sandbox(ctx, d.ID)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: d}, f(ctx, sb, d, !bare)
		}),
	}
	cmd.Flags().BoolVar(&bare, "no-create-dirs", false, "do not make missing directories")
	ignored(cmd, "ssh-key", "ssh-user", "comm-channel")
	return cmd
}

func upload(ctx context.Context, sb *smolvm.Sandbox, d oldFileData, parents bool) error {
	f, err := os.Open(d.Local)
	if err != nil {
		return api.Errorf(api.Invalid, "upload: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return api.Errorf(api.Invalid, "upload: %w", err)
	}
	if !info.Mode().IsRegular() {
		return api.Errorf(api.Invalid, "upload %q: it is not a file", d.Local).WithRecovery("Use smolvm cp for directories.")
	}
	return sb.WriteFile(ctx, d.Guest, f, smolvm.FileOptions{Mode: uint32(info.Mode().Perm()), Parents: parents})
}

// download replaces the local file whole or not at all.
func download(ctx context.Context, sb *smolvm.Sandbox, d oldFileData, parents bool) error {
	r, info, err := sb.OpenFile(ctx, d.Guest)
	if err != nil {
		return err
	}
	defer r.Close()
	dir := filepath.Dir(d.Local)
	if parents {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return api.Errorf(api.Invalid, "download: %w", err)
		}
	}
	return writeWhole(d.Local, os.FileMode(info.Mode&0o777), func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
}
