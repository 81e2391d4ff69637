package cli

import (
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
)

// secretFlags are the secrets of a sandbox. A value never stands on the command line,
// where every user of this machine would see it.
type secretFlags struct {
	secrets, files []string
	in             io.Reader
}

func (f *secretFlags) register(a *app, cmd *cobra.Command) {
	f.in = a.In
	fs := cmd.Flags()
	fs.StringArrayVar(&f.secrets, "secret", nil,
		"secret that requests to these hosts carry and the sandbox does not see, `NAME=HOST[,HOST]`; its value is taken from the environment variable NAME")
	fs.StringArrayVar(&f.files, "secret-file", nil, "take the value of a --secret from a file, `NAME=FILE`, - for standard input")
}

func (f *secretFlags) parse() ([]api.Secret, error) {
	files := map[string]string{}
	for _, word := range f.files {
		name, file, ok := strings.Cut(word, "=")
		if !ok || file == "" {
			return nil, usagef("--secret-file %q: write NAME=FILE", word)
		}
		files[name] = file
	}
	var out []api.Secret
	for _, word := range f.secrets {
		s, err := parseSecret(word)
		if err != nil {
			return nil, err
		}
		if s.Value, err = secretValue(s.Name, files[s.Name], f.in); err != nil {
			return nil, err
		}
		delete(files, s.Name)
		out = append(out, s)
	}
	for name := range files {
		return nil, usagef("--secret-file %s does nothing without --secret %s=HOST", name, name)
	}
	return out, nil
}

// parseSecret reads NAME=HOST[,HOST].
func parseSecret(word string) (api.Secret, error) {
	name, hosts, _ := strings.Cut(word, "=")
	s := api.Secret{Name: name}
	if hosts != "" {
		s.Hosts = strings.Split(hosts, ",")
	}
	return s, s.Check()
}

// secretValue reads a value: of a file, of standard input for -, of the environment
// for an empty name. A last line break is not part of it.
func secretValue(name, file string, stdin io.Reader) (string, error) {
	if file == "" {
		value, ok := os.LookupEnv(name)
		if !ok || value == "" {
			return "", api.Errorf(api.Invalid, "secret %s: the environment variable %s is not set here", name, name).
				WithRecovery("Set it, or take the value from a file: with --secret-file %s=FILE, or --file FILE of secret set.", name)
		}
		return value, nil
	}
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", api.Errorf(api.Invalid, "secret %s: %w", name, err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, api.MaxSecretBytes+3)) // with a line break, and one too many
	if err != nil {
		return "", api.Errorf(api.Invalid, "secret %s: %w", name, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if value == "" {
		return "", api.Errorf(api.Invalid, "secret %s: its value is empty", name)
	}
	return value, nil
}
