package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func (a *app) newSecret() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Let a sandbox use secrets without seeing them",
		Long: `Let a sandbox use secrets without seeing them. Its processes find a placeholder
in the environment. In requests to exactly the hosts that the secret is meant
for, over verified TLS, headers, query and body get the value; anywhere else the
placeholder travels, and an alarm is in the network's record.

Values are in the memory of the sandbox's supervisor alone. After a stop, a
hibernation or a crash they have to be set again.`,
		Example: `  smolvm create --name web --secret API_KEY=api.example.com
  smolvm secret set web API_KEY
  smolvm secret ls web
  smolvm secret rm web API_KEY`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newSecretSet(), a.newSecretRemove(), a.newSecretList())
	return cmd
}

type secretsData struct {
	Secrets []smolvm.SecretStatus `json:"secrets"`
}

func secretsOutcome(list []smolvm.SecretStatus) outcome {
	return outcome{data: secretsData{nonNil(list)}, text: func(w io.Writer) {
		var rows [][]string
		for _, s := range list {
			ready := "set"
			if !s.Ready {
				ready = "not here"
			}
			rows = append(rows, []string{s.Name, strings.Join(s.Hosts, ","), ready, dash(s.Placeholder)})
		}
		table(w, "NAME\tHOSTS\tVALUE\tPLACEHOLDER", rows)
	}}
}

func shownSecrets(list []smolvm.Secret) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = s.Name + "=" + strings.Join(s.Hosts, ",")
	}
	return strings.Join(words, " ")
}

func (a *app) newSecretSet() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "set SANDBOX NAME[=HOST[,HOST]]",
		Short: "Give a sandbox a secret, or its value again",
		Long: `Give a running sandbox a secret, or another value or other hosts to one that it
has. The value is taken from the environment variable NAME or from a file.
Processes that have the placeholder use the new value; a new secret is in the
environment of processes started from now on.`,
		Example: `  smolvm secret set web API_KEY=api.example.com
  smolvm secret set web API_KEY --file key.txt
  pass show api | smolvm secret set web API_KEY --file -`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.do(func(ctx context.Context, args []string) (outcome, error) {
			name, hosts, _ := strings.Cut(args[1], "=")
			s := api.Secret{Name: name}
			if hosts != "" {
				s.Hosts = strings.Split(hosts, ",")
			}
			var err error
			if s.Value, err = secretValue(name, file, a.In); err != nil {
				return outcome{}, err
			}
			sb, err := a.sandbox(ctx, args[0])
			if err != nil {
				return outcome{}, err
			}
			st, err := sb.SetSecret(ctx, s)
			if err != nil {
				return outcome{}, err
			}
			return outcome{data: secretsData{[]smolvm.SecretStatus{st}}}, nil
		}),
	}
	cmd.Flags().StringVar(&file, "file", "", "take the value from this `FILE`, - for standard input")
	return cmd
}

func (a *app) newSecretRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "rm SANDBOX NAME...",
		Aliases:           []string{"remove"},
		Short:             "Have a sandbox forget secrets",
		Long:              `Have a sandbox forget secrets. Their placeholders mean nothing from then on.`,
		Example:           `  smolvm secret rm web API_KEY`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			for _, name := range args[1:] {
				if err := sb.RemoveSecret(ctx, name); err != nil {
					return outcome{}, err
				}
			}
			list, err := sb.Secrets(ctx)
			return outcome{data: secretsData{nonNil(list)}}, err
		}),
	}
}

func (a *app) newSecretList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls SANDBOX",
		Aliases: []string{"list"},
		Short:   "List the secrets of a sandbox",
		Long: `List the secrets of a sandbox: their hosts, what stands for them in it, and
whether their values are here. Values are never shown.`,
		Example: `  smolvm secret ls web
  smolvm secret ls web --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeWith(a.completeSandboxes, 1),
		RunE: a.doTo(func(ctx context.Context, sb *smolvm.Sandbox, args []string) (outcome, error) {
			list, err := sb.Secrets(ctx)
			if err != nil {
				return outcome{}, err
			}
			return secretsOutcome(list), nil
		}),
	}
}
