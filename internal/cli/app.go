package cli

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Build says what build of smolvm this is.
type Build struct {
	Version string     // empty: the module's
	Driver  vmm.Driver // that supervisors run machines with; doctor asks it
	Floor   Floor      // that bench compares with; nil: it does not
}

// app is one run of the command line.
type app struct {
	Streams
	build    Build
	json     bool
	budget   mibFlag // for templates; zero: the SDK's default
	streamed bool    // events were printed
	progress meter
	outcome  *outcome // of the command, once it ran
}

// Main runs one command line, without the program's name, and returns the exit
// status. A signal that is to end it must end ctx with a cause of type Signal.
func Main(ctx context.Context, args []string, s Streams, b Build) int {
	a := &app{Streams: s, build: b, json: wantsJSON(args)}
	if !a.json || s.ErrTerm {
		a.progress.w, a.progress.term = s.Err, s.ErrTerm
	}
	root := a.root()
	root.SetArgs(withExportFile(args))
	cmd, err := root.ExecuteContextC(ctx)
	return a.finish(ctx, cmd, a.outcome, err)
}

// wantsJSON looks for --json before the flags are parsed, so that a command line
// that cannot be parsed is answered in JSON too.
func wantsJSON(args []string) bool {
	for _, s := range args {
		switch s {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}

// action is what a command does.
type action func(ctx context.Context, args []string) (outcome, error)

// do makes an action a command's RunE.
func (a *app) do(f action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		o, err := f(cmd.Context(), args)
		if err == nil || o.data != nil {
			a.outcome = &o
		}
		return err
	}
}

// doTo makes what a command does to the sandbox that its first argument names the
// command's RunE.
func (a *app) doTo(f func(context.Context, *smolvm.Sandbox, []string) (outcome, error)) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) (outcome, error) {
		sb, err := a.sandbox(ctx, args[0])
		if err != nil {
			return outcome{}, err
		}
		return f(ctx, sb, args)
	})
}

// client returns the SDK's client. Supervisors run this same program.
func (a *app) client() *smolvm.Client {
	bin, err := os.Executable()
	if err != nil {
		bin = "" // the SDK then looks for it
	}
	return &smolvm.Client{
		BaseURL: os.Getenv(envURL), APIKey: os.Getenv(envAPIKey),
		Binary: bin, Progress: a.progress.tell, TemplateBudgetMiB: int(a.budget),
	}
}

// sandbox finds a sandbox by id, beginning of an id, or name.
func (a *app) sandbox(ctx context.Context, ref string) (*smolvm.Sandbox, error) {
	return a.client().Get(ctx, ref)
}

// Group ids of the root command's help.
const (
	groupLife    = "life"
	groupInside  = "inside"
	groupNetwork = "network"
	groupSaved   = "saved"
	groupImages  = "images"
	groupHost    = "host"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "smolvm",
		Short: "Disposable computers for AI agents",
		Long: `smolvm gives an AI agent a disposable computer: a microVM with its own kernel,
disk and processes. It needs no root and no daemon.

State is kept in $SMOLVM_HOME, else $XDG_STATE_HOME/smolvm, else
~/.local/state/smolvm. With SMOLVM_URL set, to the address that smolvm serve
printed on another machine or this one, the sandboxes there are meant, and
SMOLVM_API_KEY is the key.

Exit status: 0 done, 1 error, 2 wrong command line, 130 interrupted. run, exec,
shell and attach exit with the command's own status; for them 124 says that the
time limit ended the command, 125 that smolvm failed, 126 and 127 that the
command cannot be executed or is not there.`,
		Example: `  smolvm run -- python3 -c 'print(6 * 7)'
  smolvm create --name web --memory 1G
  smolvm exec web -- uname -a
  smolvm rm web`,
		Version:           a.build.version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("smolvm {{.Version}}\n")
	root.PersistentFlags().BoolVar(&a.json, "json", a.json, "print one JSON object on standard output")
	root.Flags().BoolP("version", "V", false, "print the version")
	root.AddGroup(
		&cobra.Group{ID: groupLife, Title: "Sandboxes:"},
		&cobra.Group{ID: groupInside, Title: "Inside a sandbox:"},
		&cobra.Group{ID: groupNetwork, Title: "The network:"},
		&cobra.Group{ID: groupSaved, Title: "Saved and continued:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupHost, Title: "This machine:"},
	)
	a.addCommands(root)
	root.RunE = group(root)
	root.SetHelpCommandGroupID(groupHost)
	root.PersistentPreRunE = budgetFromEnv
	checkUsage(root)
	return root
}

func (a *app) addCommands(root *cobra.Command) {
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add(groupLife, a.newRun(), a.newAgent(), a.newCreate(), a.newList(), a.newInspect(), a.newStart(), a.newStop(),
		a.newRestart(), a.newPause(), a.newResume(), a.newRename(), a.newRemove(), a.newWait(), a.newEvents())
	add(groupInside, a.newExec(), a.newShell(), a.newCopy(), a.newEnv(), a.newLogs(), a.newPs(),
		a.newAttach(), a.newKill(), a.newStats())
	add(groupNetwork, a.newNetwork(), a.newPort(), a.newSecret())
	add(groupSaved, a.newHibernate(), a.newSnapshot(), a.newFork(), a.newCheckpoint(), a.newHistory(), a.newRewind(),
		a.newDiff(), a.newTemplate(), a.newPool())
	add(groupImages, a.newImage())
	add(groupHost, a.newServe(), a.newKey(), a.newMCP(), a.newSetup(), a.newDoctor(), a.newBench(), a.newGC(), a.newVersion(), a.newCompletion())
	root.AddCommand(a.newSandbox())
}

// group makes the RunE of a command that only holds others.
func group(cmd *cobra.Command) func(*cobra.Command, []string) error {
	cmd.Args = cobra.ArbitraryArgs
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := usagef("unknown command %.80q for %s", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = 2
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			err.hint = "Did you mean " + cmd.CommandPath() + " " + strings.Join(s, ", ") + "?"
		}
		return err
	}
}

// checkUsage makes every complaint about arguments in a tree of commands a
// usage error.
func checkUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err: err}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		checkUsage(c)
	}
}

// flagError makes a complaint about flags a usage error that says what was
// probably meant.
func flagError(cmd *cobra.Command, err error) error {
	u := &usageError{err: err}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if s := nearestFlag(cmd.Flags(), unknown.GetSpecifiedName()); s != "" {
			u.hint = "Did you mean --" + s + "?"
		}
	}
	return u
}

// maxTypos is how many letters a suggested flag may differ by.
const maxTypos = 2

func nearestFlag(flags *pflag.FlagSet, name string) string {
	best, nearest := maxTypos+1, ""
	flags.VisitAll(func(f *pflag.Flag) {
		if d := distance(name, f.Name); d < best && d < len(name) && !f.Hidden {
			best, nearest = d, f.Name
		}
	})
	return nearest
}

// distance is how many letters must be added, dropped or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
