package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
)

func (a *app) newCreate() *cobra.Command {
	var o specFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a sandbox and start it",
		Long: `Make a sandbox and start it. Its name is printed. It goes on when smolvm ends; it
ends by stop, rm, its time to live or its idle timeout.

The first one of an image and sizes boots, and is saved as a template; later ones
continue the template, or take a sandbox that waits in a pool, in milliseconds.
With --from-snapshot the sandbox continues a snapshot, under an identity of its
own. With --checkpoint each-command the state after each command can be gone back
to: see history and rewind.`,
		Example: `  smolvm create
  smolvm create --name web --cpus 2 --memory 2G --disk 10G
  smolvm create -e TOKEN --env-file .env --ttl 1h --label team=search
  smolvm create --min-isolation hardware
  smolvm create --from-snapshot ready --name second
  smolvm create --checkpoint each-command --idle-timeout 10m --idle-action hibernate`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.create(ctx, &o) }),
	}
	o.register(a, cmd)
	return cmd
}

func (a *app) create(ctx context.Context, o *specFlags) (outcome, error) {
	spec, err := o.spec()
	if err != nil {
		return outcome{}, err
	}
	sb, err := a.client().Create(ctx, spec)
	if err != nil {
		return outcome{}, err
	}
	return describe(ctx, sb)
}

// sandboxData is the data of commands about one sandbox.
type sandboxData struct {
	Sandbox smolvm.Info `json:"sandbox"`
}

// describe gives a sandbox as it is now; to people, its name.
func describe(ctx context.Context, sb *smolvm.Sandbox) (outcome, error) {
	info, err := sb.Info(ctx)
	if err != nil {
		return outcome{}, err
	}
	return described(info), nil
}

func described(info smolvm.Info) outcome {
	return outcome{
		data: sandboxData{info},
		text: func(w io.Writer) { fmt.Fprintln(w, clean(info.Name)) },
	}
}
