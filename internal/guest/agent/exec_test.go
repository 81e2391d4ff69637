package agent_test

import (
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

func sh(script string) guest.Exec { return guest.Exec{Shell: guest.ShellRaw, Argv: []string{script}} }

func TestExec(t *testing.T) {
	c := serve(t, agent.Options{})
	for _, test := range []struct {
		name     string
		exec     guest.Exec
		out, err string
		code     int
	}{
		{"true", guest.Exec{Argv: []string{"true"}}, "", "", 0},
		{"false", guest.Exec{Argv: []string{"false"}}, "", "", 1},
		{"stdout", guest.Exec{Argv: []string{"echo", "a b"}}, "a b\n", "", 0},
		{"stderr", sh("echo x >&2; exit 7"), "", "x\n", 7},
		{"signal", sh("kill -9 $$"), "", "", 137},
		{"stdin is at its end", guest.Exec{Argv: []string{"cat"}}, "", "", 0},
		{"env", guest.Exec{Argv: []string{"sh", "-c", "echo $A $HOME $USER"}, Env: []string{"A=1"}}, "1 /root root\n", "", 0},
		{"dir", guest.Exec{Argv: []string{"pwd"}, Dir: "/usr/bin"}, "/usr/bin\n", "", 0},
		{"user", guest.Exec{Argv: []string{"id", "-un"}, User: "nobody"}, "nobody\n", "", 0},
		{"uid and group", guest.Exec{Argv: []string{"sh", "-c", "id -u; id -g"}, User: "1234:daemon"}, "1234\n1\n", "", 0},
		{"login shell", guest.Exec{Argv: []string{"echo $0 $1", "x"}, Shell: guest.ShellLogin}, "bash x\n", "", 0},
		{"background child", sh("sleep 60 & echo started"), "started\n", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := c.Run(testContext(t), test.exec)
			if err != nil {
				t.Fatal(err)
			}
			if string(r.Stdout) != test.out || string(r.Stderr) != test.err || r.Code != test.code {
				t.Errorf("code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
			}
		})
	}
}

func TestExecRefused(t *testing.T) {
	c := serve(t, agent.Options{})
	for _, test := range []struct {
		name  string
		exec  guest.Exec
		class api.Class
		text  string
	}{
		{"no command", guest.Exec{}, api.Invalid, "no command"},
		{"empty command", guest.Exec{Argv: []string{""}}, api.Invalid, "no command"},
		{"missing program", guest.Exec{Argv: []string{"no-such-program"}}, api.NotFound, `"no-such-program"`},
		{"missing path", guest.Exec{Argv: []string{"/no/such"}}, api.NotFound, `"/no/such"`},
		{"not executable", guest.Exec{Argv: []string{"/etc/passwd"}}, api.Denied, `"/etc/passwd"`},
		{"directory", guest.Exec{Argv: []string{"/etc"}}, api.Invalid, `"/etc"`},
		{"missing directory", guest.Exec{Argv: []string{"true"}, Dir: "/nowhere"}, api.Invalid, `"/nowhere"`},
		{"relative directory", guest.Exec{Argv: []string{"true"}, Dir: "x"}, api.Invalid, `"x"`},
		{"file as directory", guest.Exec{Argv: []string{"true"}, Dir: "/etc/passwd"}, api.Invalid, `"/etc/passwd"`},
		{"unknown user", guest.Exec{Argv: []string{"true"}, User: "nosuchuser"}, api.Invalid, `"nosuchuser"`},
		{"unknown group", guest.Exec{Argv: []string{"true"}, User: "root:nosuchgroup"}, api.Invalid, `"nosuchgroup"`},
		{"bad environment", guest.Exec{Argv: []string{"true"}, Env: []string{"x"}}, api.Invalid, `"x"`},
		{"zero byte", guest.Exec{Argv: []string{"echo", "a\x00b"}}, api.Invalid, "zero byte"},
		{"unknown shell", guest.Exec{Argv: []string{"true"}, Shell: 9}, api.Invalid, "shell 9"},
		{"negative timeout", guest.Exec{Argv: []string{"true"}, TimeoutMS: -1}, api.Invalid, "timeout"},
		{"huge terminal", guest.Exec{Argv: []string{"true"}, TTY: true, Rows: 1 << 20}, api.Invalid, "terminal"},
		{"too long an argument", guest.Exec{Argv: []string{"true", strings.Repeat("x", 1<<20)}}, api.Invalid, "too long"},
		{"too long a request", guest.Exec{Argv: []string{"true", strings.Repeat("x", 5<<20)}}, api.Exhausted, "request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Run(testContext(t), test.exec)
			if api.ClassOf(err) != test.class || !strings.Contains(err.Error(), test.text) {
				t.Errorf("class %q: %v", api.ClassOf(err), err)
			}
		})
	}
}
