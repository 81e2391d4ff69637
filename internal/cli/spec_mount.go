package cli

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
)

// mountFlags are the host's folders of a sandbox.
type mountFlags struct{ mounts []string }

func (f *mountFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.mounts, "mount", nil,
		"folder of this host in the sandbox, `HOST[:GUEST[:ro|rw]]` (default: at the same path, and what is written stays in the sandbox)")
}

// parse reads the flags. A relative folder is one of the working directory, ~ that of
// the user.
func (f *mountFlags) parse() ([]api.Mount, error) {
	var out []api.Mount
	for _, word := range f.mounts {
		m, err := parseMount(word)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func parseMount(word string) (api.Mount, error) {
	host, rest, _ := strings.Cut(word, ":")
	guest, mode, _ := strings.Cut(rest, ":")
	if guest == "ro" || guest == "rw" { // HOST:rw
		if mode != "" {
			return api.Mount{}, badMount(word)
		}
		guest, mode = "", guest
	}
	if host == "" || mode != "" && mode != "ro" && mode != "rw" {
		return api.Mount{}, badMount(word)
	}
	if thisMachine("mount") != nil {
		return farMount(word, host, guest, mode)
	}
	if host == "~" || strings.HasPrefix(host, "~/") {
		home, err := os.UserHomeDir()
		if err != nil {
			return api.Mount{}, err
		}
		host = home + host[1:]
	}
	abs, err := filepath.Abs(host)
	if err != nil {
		return api.Mount{}, err
	}
	if st, err := os.Stat(abs); err != nil || !st.IsDir() {
		return api.Mount{}, api.Errorf(api.Invalid, "mount %q: %s is no folder of this host", word, abs)
	}
	if guest != "" {
		guest = filepath.Clean(guest)
	}
	return api.Mount{Host: abs, Guest: guest, Writable: mode == "rw"}, nil
}

// farMount is a folder of the gateway's host, where it is looked for.
func farMount(word, host, guest, mode string) (api.Mount, error) {
	if !filepath.IsAbs(host) {
		return api.Mount{}, api.Errorf(api.Invalid, "mount %q: it is a folder of the gateway's host, and needs an absolute path", word)
	}
	if guest != "" {
		guest = filepath.Clean(guest)
	}
	return api.Mount{Host: filepath.Clean(host), Guest: guest, Writable: mode == "rw"}, nil
}

func badMount(word string) error {
	return usagef("--mount %q: use HOST[:GUEST[:ro|rw]]", word)
}

// shownMounts are mounts as --mount has them.
func shownMounts(mounts []api.Mount) string {
	var list []string
	for _, m := range mounts {
		mode := "ro"
		if m.Writable {
			mode = "rw"
		}
		list = append(list, m.Host+":"+m.Target()+":"+mode)
	}
	return strings.Join(list, ", ")
}
