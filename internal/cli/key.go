package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/store"
)

func (a *app) newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Manage the keys of the HTTP API",
		Long: `Manage the keys of the HTTP API, which programs need that come over TCP. A key
has a scope: read looks, run also uses sandboxes (commands and files), manage
also creates and removes them and changes what they may reach, admin also
changes images, templates and pools.

Only hashes of keys are stored. A key that is revoked ends at once.`,
		Example: `  smolvm key create --name ci --scope manage --ttl 720h
  smolvm key ls
  smolvm key revoke ci`,
	}
	cmd.RunE = group(cmd)
	cmd.AddCommand(a.newKeyCreate(), a.newKeyList(), a.newKeyRevoke())
	return cmd
}

// apiKeys opens the keys of this state directory.
func apiKeys() (*apikey.Store, error) {
	if err := thisMachine("work with keys"); err != nil {
		return nil, err
	}
	s, err := store.Open("")
	if err != nil {
		return nil, err
	}
	return apikey.Open(s.APIKeys()), nil
}

// keyData is a key that was made, with what its holder sends.
type keyData struct {
	apikey.Key
	Token string `json:"token"`
}

func (a *app) newKeyCreate() *cobra.Command {
	var o apikey.Options
	var ttl durationFlag
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a key and print it, this once",
		Long: `Make a key and print it on standard output. It cannot be shown again. Its holder
sends it in the header Authorization: Bearer KEY.`,
		Example: `  smolvm key create --name ci --scope manage --ttl 720h
  smolvm key create --scope read --rate 10 --concurrent 4
  SMOLVM_API_KEY=$(smolvm key create --name me --scope admin)`,
		Args: cobra.NoArgs,
		RunE: a.do(func(context.Context, []string) (outcome, error) {
			keys, err := apiKeys()
			if err != nil {
				return outcome{}, err
			}
			o.TTL = time.Duration(ttl)
			k, token, err := keys.Create(o)
			if err != nil {
				return outcome{}, err
			}
			a.note("key %s: scope %s, expires %s", k.Name, k.Scope, expiry(k))
			return outcome{data: keyData{k, token}, text: func(w io.Writer) { fmt.Fprintln(w, token) }}, nil
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Name, "name", "", "`NAME` that it is listed by (default: its id)")
	fs.StringVar((*string)(&o.Scope), "scope", "", "how far it reaches: read, run, manage or admin (default run)")
	fs.Var(&ttl, "ttl", "end it after this time, such as 720h (default: never)")
	fs.Float64Var(&o.Rate, "rate", 0, "requests a second that it may send (default: any number)")
	fs.IntVar(&o.Concurrent, "concurrent", 0, fmt.Sprintf("requests that it may have under way at once (default %d)", apikey.DefaultConcurrent))
	fixed(cmd, "scope", scopeNames()...)
	return cmd
}

func scopeNames() []string {
	var names []string
	for _, s := range apikey.Scopes() {
		names = append(names, string(s))
	}
	return names
}

func expiry(k apikey.Key) string {
	if k.Expires.IsZero() {
		return "never"
	}
	return k.Expires.Local().Format(time.DateTime)
}

type keysData struct {
	Keys []apikey.Key `json:"keys"`
}

func (a *app) newKeyList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List keys",
		Long:    "List the keys, oldest first, without what their holders send.",
		Example: "  smolvm key ls",
		Args:    cobra.NoArgs,
		RunE: a.do(func(context.Context, []string) (outcome, error) {
			keys, err := apiKeys()
			if err != nil {
				return outcome{}, err
			}
			list, err := keys.List()
			return outcome{data: keysData{nonNil(list)}, text: func(w io.Writer) { printKeys(w, list) }}, err
		}),
	}
}

func printKeys(w io.Writer, list []apikey.Key) {
	var rows [][]string
	for _, k := range list {
		rate := ""
		if k.Rate > 0 {
			rate = strconv.FormatFloat(k.Rate, 'g', -1, 64) + "/s"
		}
		rows = append(rows, []string{k.ID, k.Name, string(k.Scope), expiry(k), dash(rate), strconv.Itoa(k.MaxConcurrent())})
	}
	table(w, "ID\tNAME\tSCOPE\tEXPIRES\tRATE\tAT ONCE", rows)
}

func (a *app) newKeyRevoke() *cobra.Command {
	return &cobra.Command{
		Use:               "revoke KEY...",
		Aliases:           []string{"rm"},
		Short:             "End keys at once",
		Long:              "End keys at once, each by its id or name. What they have under way goes on.",
		Example:           "  smolvm key revoke ci",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(completeKeys, 0),
		RunE: a.do(func(_ context.Context, args []string) (outcome, error) {
			keys, err := apiKeys()
			if err != nil {
				return outcome{}, err
			}
			var gone []apikey.Key
			for _, ref := range args {
				k, err := keys.Revoke(ref)
				if err != nil {
					return outcome{}, err
				}
				gone = append(gone, k)
			}
			return outcome{data: keysData{gone}, text: func(w io.Writer) {
				for _, k := range gone {
					fmt.Fprintln(w, k.Name)
				}
			}}, nil
		}),
	}
}

func completeKeys(context.Context) ([]string, error) {
	keys, err := apiKeys()
	if err != nil {
		return nil, err
	}
	list, err := keys.List()
	var names []string
	for _, k := range list {
		names = append(names, k.Name)
	}
	return names, err
}
