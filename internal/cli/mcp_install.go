package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/mcpserver/clients"
	"github.com/smolvm/smolvm/internal/store"
)

// maxClientFile bounds a client's file: Claude Code keeps much beside in its.
const maxClientFile = 64 << 20

type mcpInstallFlags struct {
	write, project bool
	as             string
}

// installData is the data of mcp install.
type installData struct {
	Client  string        `json:"client"`
	Name    string        `json:"name"` // of the server in the client
	File    string        `json:"file"`
	Entry   clients.Entry `json:"entry"`
	Text    string        `json:"text"` // what a file with nothing else would hold
	Written bool          `json:"written"`
	Backup  string        `json:"backup,omitempty"` // the file as it was
}

func (a *app) newMCPInstall() *cobra.Command {
	var o mcpInstallFlags
	cmd := &cobra.Command{
		Use:   "install CLIENT [-- FLAG...]",
		Short: "Tell a client how to start smolvm mcp",
		Long: `Print what has to stand in a client's configuration so that it starts smolvm
mcp, and in which file. With --write it is put there: the rest of the file stays
as it is, and a copy of what it was is kept beside it. CLIENT is claude (Claude
Code), cursor, vscode or codex. Flags after -- are flags of smolvm mcp.

SMOLVM_HOME and SMOLVM_URL are taken along where they are set here.
SMOLVM_API_KEY is not: a key does not belong in such a file. Set it where the
client starts.`,
		Example: `  smolvm mcp install claude --write
  smolvm mcp install cursor
  smolvm mcp install vscode --project --write
  smolvm mcp install codex --write -- --memory 2G --allow @pypi`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWith(func(context.Context) ([]string, error) { return clients.Names(), nil }, 1),
		RunE:              a.do(func(_ context.Context, args []string) (outcome, error) { return a.mcpInstall(&o, args[0], args[1:]) }),
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.write, "write", false, "put it into the file")
	flags.BoolVar(&o.project, "project", false, "use the file of the project in this directory, not your own")
	flags.StringVar(&o.as, "as", "smolvm", "`NAME` of the server in the client")
	return cmd
}

var serverNameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`) })

func (a *app) mcpInstall(o *mcpInstallFlags, client string, flags []string) (outcome, error) {
	c, err := clients.Find(client)
	if err != nil {
		return outcome{}, err
	}
	if !serverNameRE().MatchString(o.as) {
		return outcome{}, usagef("--as %.80q: a name is made of letters, digits, - and _", o.as)
	}
	// A mistake in them would show only when the client starts the server.
	if mcp := a.newMCP(); mcp.ParseFlags(flags) != nil || mcp.Flags().NArg() > 0 {
		return outcome{}, usagef("%.200q are not flags of smolvm mcp", flags)
	}
	d := installData{Client: client, Name: o.as, Entry: mcpEntry(flags)}
	places, err := clientPlaces(o.project)
	if err != nil {
		return outcome{}, err
	}
	d.File = c.Path(places)
	alone, err := c.Merge(nil, o.as, d.Entry)
	if err != nil {
		return outcome{}, err
	}
	d.Text = string(alone)
	if o.write {
		d.Backup, err = mergeInto(d.File, func(old []byte) ([]byte, error) { return c.Merge(old, o.as, d.Entry) })
		if err != nil {
			return outcome{}, err
		}
		d.Written = true
	}
	return outcome{data: d, text: func(w io.Writer) { printInstall(w, c, d) }}, nil
}

func mcpEntry(flags []string) clients.Entry {
	e := clients.Entry{Command: "smolvm", Args: append([]string{"mcp"}, flags...)}
	if bin, err := os.Executable(); err == nil {
		e.Command = bin
	}
	for _, name := range []string{"SMOLVM_HOME", envURL} {
		if value := os.Getenv(name); value != "" {
			if e.Env == nil {
				e.Env = map[string]string{}
			}
			e.Env[name] = value
		}
	}
	return e
}

func clientPlaces(project bool) (p clients.Places, err error) {
	if p.Home, err = os.UserHomeDir(); err != nil {
		return p, api.Errorf(api.Unavailable, "find the home directory: %w", err)
	}
	p.Config, p.Codex = os.Getenv("XDG_CONFIG_HOME"), os.Getenv("CODEX_HOME")
	if project {
		if p.Project, err = os.Getwd(); err != nil {
			return p, api.Errorf(api.Unavailable, "find this directory: %w", err)
		}
	}
	return p, nil
}

// mergeInto changes a file, which may be missing, and returns where it is as it was;
// empty: there was none, or nothing changed.
func mergeInto(path string, merge func([]byte) ([]byte, error)) (backup string, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // people keep such files elsewhere, and link to them
	}
	old, mode, err := readClientFile(path)
	if err != nil {
		return "", err
	}
	merged, err := merge(old)
	if err != nil {
		return "", api.Errorf(api.ClassOf(err), "change %s, which stays as it is: %w", path, err)
	}
	if bytes.Equal(old, merged) {
		return "", nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", api.Errorf(api.Denied, "change %s: %w", path, err)
	}
	if old != nil {
		backup = fmt.Sprintf("%s.before-smolvm-%s", path, time.Now().UTC().Format("20060102-150405"))
		if err := store.WriteFile(backup, old, mode); err != nil {
			return "", api.Errorf(api.Denied, "keep %s as it is: %w", path, err)
		}
	}
	// The client may have written meanwhile: its words are not to be lost.
	if now, _, err := readClientFile(path); err != nil || !bytes.Equal(now, old) {
		os.Remove(backup)
		return "", errors.Join(err, api.Errorf(api.Conflict, "change %s: it was written by others at the same time", path).
			WithRecovery("Close the client and try again."))
	}
	if err := store.WriteFile(path, merged, mode); err != nil {
		return "", api.Errorf(api.Denied, "change %s: %w", path, err)
	}
	return backup, nil
}

// readClientFile returns nil for a file that is missing.
func readClientFile(path string) ([]byte, os.FileMode, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o600, nil
	}
	if err != nil {
		return nil, 0, api.Errorf(api.Denied, "read %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, api.Errorf(api.Invalid, "read %s: it is no file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxClientFile+1))
	if err == nil && len(b) > maxClientFile {
		err = api.Errorf(api.Exhausted, "it is larger than %d bytes", maxClientFile)
	}
	if err != nil {
		return nil, 0, api.Errorf(api.Unavailable, "read %s: %w", path, err)
	}
	if b == nil {
		b = []byte{}
	}
	return b, info.Mode().Perm(), nil
}

func printInstall(w io.Writer, c clients.Client, d installData) {
	switch {
	case d.Written && d.Backup != "":
		fmt.Fprintf(w, "%s starts smolvm mcp as %s from now on: %s\nThe file as it was: %s\n", c.Title, d.Name, d.File, d.Backup)
	case d.Written:
		fmt.Fprintf(w, "%s starts smolvm mcp as %s from now on: %s\n", c.Title, d.Name, d.File)
	default:
		fmt.Fprintf(w, "For %s, in %s:\n\n%s\nTo have it put there: smolvm mcp install %s --write\n",
			c.Title, d.File, strings.TrimRight(d.Text, "\n")+"\n", d.Client)
	}
}
