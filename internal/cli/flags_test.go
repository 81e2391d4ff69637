package cli

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int{
		"512": 512, "512M": 512, "512m": 512, "512MiB": 512, "512MB": 512,
		"2G": 2048, "1.5g": 1536, "2GiB": 2048, "1T": 1 << 20, " 64 ": 64,
	} {
		var f mibFlag
		if err := f.Set(text); err != nil || int(f) != want {
			t.Errorf("Set(%q) = %d, %v, want %d", text, f, err, want)
		}
	}
	for _, text := range []string{
		"", "M", "G2", "-1", "0", "0.3M", "1K", "512Q", "1e3", "0x10", "NaN", "Inf", "1_000", "9999999999999999G", "1 2", "2GG",
	} {
		var f mibFlag
		if err := f.Set(text); err == nil {
			t.Errorf("Set(%q) = %d, want an error", text, f)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30": 30 * time.Second, "0.5": 500 * time.Millisecond, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "0": 0,
	} {
		var f durationFlag
		if err := f.Set(text); err != nil || time.Duration(f) != want {
			t.Errorf("Set(%q) = %v, %v, want %v", text, time.Duration(f), err, want)
		}
	}
	for _, text := range []string{"", "soon", "-1", "-5s", "NaN", "Inf", "1e300", "5 minutes"} {
		var f durationFlag
		if err := f.Set(text); err == nil {
			t.Errorf("Set(%q) = %v, want an error", text, time.Duration(f))
		}
	}
}

// parse parses flags that register registers, and returns what is left.
func parse(t *testing.T, register func(*app, *cobra.Command), args ...string) (*cobra.Command, error) {
	t.Helper()
	cmd := &cobra.Command{Use: "test"}
	register(testApp(), cmd)
	return cmd, cmd.ParseFlags(args)
}

func TestSpecFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# note\n\nA=file\nexport B=b c\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SMOLVM_TEST_VALUE", "from here")
	tests := []struct {
		args []string
		want smolvm.Spec
	}{
		{nil, smolvm.Spec{CPUs: 1, MemoryMiB: 512, DiskMiB: 8192, Accel: "auto"}},
		{
			[]string{
				"--image", "alpine", "-n", "web", "--cpus", "2", "--memory", "1G", "--disk=4096", "--ttl", "1h",
				"--idle-timeout", "90", "--min-isolation", "emulated", "--accel", "tcg", "-l", "team=a", "--label", "k=",
			},
			smolvm.Spec{
				Image: "alpine", Name: "web", CPUs: 2, MemoryMiB: 1024, DiskMiB: 4096, TTLSeconds: 3600,
				IdleTimeoutSeconds: 90, MinIsolation: "emulated", Accel: "tcg", Labels: map[string]string{"team": "a", "k": ""},
			},
		},
		{
			[]string{"--from-snapshot", "ready", "--accel", "tcg"},
			smolvm.Spec{FromSnapshot: "ready", Accel: "tcg"},
		},
		{
			[]string{"--no-template", "--checkpoint", "each-command", "--idle-timeout", "5m", "--idle-action", "hibernate"},
			smolvm.Spec{
				CPUs: 1, MemoryMiB: 512, DiskMiB: 8192, Accel: "auto", NoTemplate: true,
				Checkpoint: api.CheckpointEachCommand, IdleTimeoutSeconds: 300, IdleAction: api.IdleHibernate,
			},
		},
		{
			[]string{"--env-file", file, "-e", "A=flag=1", "--env", "SMOLVM_TEST_VALUE"},
			smolvm.Spec{
				CPUs: 1, MemoryMiB: 512, DiskMiB: 8192, Accel: "auto",
				Env: map[string]string{"A": "flag=1", "B": "b c", "SMOLVM_TEST_VALUE": "from here"},
			},
		},
	}
	for _, tt := range tests {
		var f specFlags
		if _, err := parse(t, f.register, tt.args...); err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		got, err := f.spec()
		if len(got.Labels) == 0 {
			got.Labels = nil
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: spec\n%+v, %v, want\n%+v", tt.args, got, err, tt.want)
		}
	}
}

func TestSpecExclusions(t *testing.T) {
	for args, want := range map[string]string{
		"--from-snapshot s --image base":      "--image and --from-snapshot",
		"--from-snapshot s --cpus 1":          "--cpus and --from-snapshot",
		"--from-snapshot s --memory 512":      "--memory and --from-snapshot",
		"--from-snapshot s --disk 8G":         "--disk and --from-snapshot",
		"--from-snapshot=":                    "names no snapshot",
		"--idle-action hibernate":             "without --idle-timeout",
		"--idle-action stop --idle-timeout 0": "without --idle-timeout",
	} {
		var f specFlags
		if _, err := parse(t, f.register, strings.Fields(args)...); err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		var usage *usageError
		if _, err := f.spec(); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a usage error with %q", args, err, want)
		}
	}
}

func TestTemplateBudget(t *testing.T) {
	for _, tt := range []struct {
		env  string
		args []string
		want int
	}{
		{"", nil, api.DefaultTemplateBudgetMiB},
		{"512M", nil, 512},
		{"512M", []string{"--template-budget", "2G"}, 2048},
		{"nonsense", []string{"--template-budget", "2G"}, 2048},
		{"nonsense", nil, 0},
	} {
		t.Setenv(budgetEnv, tt.env)
		a := testApp()
		cmd := &cobra.Command{Use: "test"}
		a.registerBudget(cmd)
		if err := cmd.ParseFlags(tt.args); err != nil {
			t.Fatal(err)
		}
		err := budgetFromEnv(cmd, nil)
		var usage *usageError
		if tt.want == 0 != errors.As(err, &usage) || tt.want != 0 && a.client().TemplateBudgetMiB != tt.want {
			t.Errorf("%q %q: %d, %v, want %d", tt.env, tt.args, a.budget, err, tt.want)
		}
	}
	t.Setenv(budgetEnv, "nonsense")
	if err := budgetFromEnv(testApp().newList(), nil); err != nil {
		t.Errorf("a command that makes no template looks at the budget: %v", err)
	}
}

func TestCommandFlags(t *testing.T) {
	var f commandFlags
	register := func(_ *app, cmd *cobra.Command) { f.register(cmd) }
	cmd, err := parse(t, register, "-w", "/srv", "-u", "agent", "--timeout", "5", "--shell", "raw", "web", "--", "ls", "-l", "a b")
	if err != nil {
		t.Fatal(err)
	}
	argv, err := againFlags(cmd, cmd.Flags().Args()[1:])
	if err != nil {
		t.Fatal(err)
	}
	c, err := testApp().command(&f, argv)
	want := smolvm.Command{
		Argv: []string{"ls -l 'a b'"}, Shell: smolvm.RawShell, Dir: "/srv", User: "agent", Timeout: 5 * time.Second,
	}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("command %+v, %v, want %+v", c, err, want)
	}
}

// TestFlagsEndAtTheCommand also covers flags between sandbox and command.
func TestFlagsEndAtTheCommand(t *testing.T) {
	for _, tt := range []struct {
		args, argv []string
		user       string
	}{
		{[]string{"web", "ls", "-u", "x"}, []string{"ls", "-u", "x"}, ""},
		{[]string{"web", "-u", "x", "ls", "-l"}, []string{"ls", "-l"}, "x"},
		{[]string{"-u", "x", "web", "--", "-l"}, []string{"-l"}, "x"},
		{[]string{"web", "--", "--", "x"}, []string{"--", "x"}, ""},
		{[]string{"--", "web", "ls"}, []string{"ls"}, ""},
		{[]string{"web"}, nil, ""},
	} {
		var f commandFlags
		cmd, err := parse(t, func(_ *app, cmd *cobra.Command) { f.register(cmd) }, tt.args...)
		if err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		argv, err := againFlags(cmd, cmd.Flags().Args()[1:])
		if len(argv) == 0 {
			argv = nil
		}
		if err != nil || !reflect.DeepEqual(argv, tt.argv) || f.user != tt.user {
			t.Errorf("%q: command %q, user %q, %v, want %q, %q", tt.args, argv, f.user, err, tt.argv, tt.user)
		}
	}
	var f commandFlags
	cmd, err := parse(t, func(_ *app, cmd *cobra.Command) { f.register(cmd) }, "web", "--nonsense", "ls")
	if err != nil {
		t.Fatal(err)
	}
	var usage *usageError
	if _, err := againFlags(cmd, cmd.Flags().Args()[1:]); !errors.As(err, &usage) {
		t.Errorf("unknown flag after the sandbox: %v, want a usage error", err)
	}
}

func TestStopFlags(t *testing.T) {
	for arg, want := range map[string]float64{"10s": 10, "0": -1, "1.5": 1.5} {
		var o stopFlags
		if _, err := parse(t, func(_ *app, cmd *cobra.Command) { o.register(cmd) }, "--timeout", arg); err != nil {
			t.Fatal(err)
		}
		if got := o.stop().GraceSeconds; got != want {
			t.Errorf("--timeout %s: grace %v, want %v", arg, got, want)
		}
	}
}

func TestEnvFileIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	line := "K=" + strings.Repeat("v", 1000) + "\n"
	if err := os.WriteFile(file, []byte(strings.Repeat(line, 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := environment([]string{file}, nil); !errors.Is(err, api.ErrExhausted) {
		t.Errorf("environment: %v, want class exhausted", err)
	}
}

func TestShellJoin(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{[]string{"a && b"}, "a && b"},
		{[]string{"echo", "a b", "it's", ""}, `echo 'a b' 'it'\''s' ''`},
		{[]string{"ls", "-l", "/x=y"}, "ls -l /x=y"},
	} {
		if got := shellJoin(tt.words); got != tt.want {
			t.Errorf("shellJoin(%q) = %s, want %s", tt.words, got, tt.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	for text, want := range map[string]place{
		"web:/srv": {"web", "/srv"}, "web:": {"web", ""}, "./a:b": {"", "./a:b"}, "/a:b": {"", "/a:b"},
		"-": {"", "-"}, "file": {"", "file"}, ":x": {"", ":x"},
	} {
		if got := parsePlace(text); got != want {
			t.Errorf("parsePlace(%q) = %+v, want %+v", text, got, want)
		}
	}
	for text, want := range map[string]struct {
		dir   string
		names []string
	}{
		"/": {"/", nil}, "/srv/.": {"/srv/", nil}, "/srv/a": {"/srv/", []string{"a"}},
		"/srv/": {"/", []string{"srv"}}, "a": {".", []string{"a"}},
	} {
		if dir, names := splitGuest(text); dir != want.dir || !reflect.DeepEqual(names, want.names) {
			t.Errorf("splitGuest(%q) = %q, %q, want %q, %q", text, dir, names, want.dir, want.names)
		}
	}
}
