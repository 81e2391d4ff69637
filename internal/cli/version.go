package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/guest"
)

type versionData struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	Protocol int    `json:"guest_protocol"`
}

func (a *app) newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the version of smolvm, of Go, and of the protocol it speaks with guests.",
		Example: `  smolvm version
  smolvm version --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(context.Context, []string) (outcome, error) {
			v := versionData{a.build.version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, guest.Version}
			return outcome{data: v, text: func(w io.Writer) {
				fmt.Fprintf(w, "smolvm %s (%s, %s/%s, guest protocol %d)\n", v.Version, v.Go, v.OS, v.Arch, v.Protocol)
			}}, nil
		}),
	}
}

// version is what the linker was told, else the module's version.
func (b Build) version() string {
	if b.Version != "" {
		return b.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
