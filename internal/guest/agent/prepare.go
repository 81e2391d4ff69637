package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
)

// defaultPath is the PATH of a process whose environment has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// plan is a process that can be started.
type plan struct {
	file string // the program
	argv []string
	env  []string
	dir  string
	user user
}

// prepare turns a request into a plan: everything that can be found wrong before
// the process exists is found here.
func (a *Agent) prepare(e *guest.Exec) (*plan, error) {
	u, err := a.users.lookup(e.User)
	if err != nil {
		return nil, err
	}
	if err := checkExec(e); err != nil {
		return nil, err
	}
	p := &plan{user: u, env: environment(e.Env, u, e.TTY)}
	if p.dir, err = workDir(e.Dir, u); err != nil {
		return nil, err
	}
	name := ""
	switch e.Shell {
	case guest.ShellNone:
		name, p.argv = e.Argv[0], e.Argv
	case guest.ShellLogin:
		name, p.argv = loginShell(u, e.Argv)
	case guest.ShellRaw:
		name, p.argv = "/bin/sh", append([]string{"sh", "-c", e.Argv[0], "sh"}, e.Argv[1:]...)
	}
	p.file, err = findProgram(name, p.dir, getenv(p.env, "PATH"))
	return p, err
}

// checkExec refuses what no process can be made of.
func checkExec(e *guest.Exec) error {
	if e.Shell < guest.ShellNone || e.Shell > guest.ShellRaw {
		return api.Errorf(api.Invalid, "shell %d is not known", e.Shell)
	}
	if len(e.Argv) == 0 && e.Shell != guest.ShellLogin || e.Shell == guest.ShellNone && e.Argv[0] == "" {
		return api.Errorf(api.Invalid, "no command is given")
	}
	for _, s := range slices.Concat(e.Argv, e.Env, []string{e.Dir}) {
		if strings.IndexByte(s, 0) >= 0 {
			return api.Errorf(api.Invalid, "command, environment or directory holds a zero byte: %q", s)
		}
	}
	for _, kv := range e.Env {
		if strings.IndexByte(kv, '=') <= 0 {
			return api.Errorf(api.Invalid, "environment entry %q is not of the form KEY=VALUE", kv)
		}
	}
	if e.TimeoutMS < 0 || e.OutputLimit < 0 || e.Rows < 0 || e.Rows > maxSide || e.Cols < 0 || e.Cols > maxSide {
		return api.Errorf(api.Invalid, "timeout, output limit or terminal size is out of range")
	}
	return nil
}

// maxSide bounds the rows and columns of a terminal: the kernel keeps 16 bits.
const maxSide = 1<<16 - 1

// environment adds what every process has.
func environment(env []string, u user, tty bool) []string {
	env = slices.Clone(env)
	home := u.home
	if home == "" {
		home = "/"
	}
	shell := u.shell
	if shell == "" {
		shell = "/bin/sh"
	}
	set := func(key, value string) {
		if getenv(env, key) == "" && !slices.Contains(env, key+"=") {
			env = append(env, key+"="+value)
		}
	}
	set("PATH", defaultPath)
	set("HOME", home)
	set("USER", u.name)
	set("LOGNAME", u.name)
	set("SHELL", shell)
	if tty {
		set("TERM", "xterm-256color")
	}
	return env
}

// getenv returns the last value of a key: it is the one that counts.
func getenv(env []string, key string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(env[i], "="); ok && k == key {
			return v
		}
	}
	return ""
}

// workDir checks the directory, or finds the user's home.
func workDir(dir string, u user) (string, error) {
	if dir == "" {
		if st, err := os.Stat(u.home); err == nil && st.IsDir() && filepath.IsAbs(u.home) {
			return u.home, nil
		}
		return "/", nil
	}
	if !filepath.IsAbs(dir) {
		return "", api.Errorf(api.Invalid, "working directory %q is not an absolute path", dir)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", api.Errorf(api.Invalid, "use working directory %q: %w", dir, err)
	}
	if !st.IsDir() {
		return "", api.Errorf(api.Invalid, "use working directory %q: it is no directory", dir)
	}
	return dir, nil
}

// loginShell returns the user's shell and its arguments. A user who may not log
// in still has commands run, by /bin/sh: the caller is the machine's owner.
func loginShell(u user, argv []string) (string, []string) {
	shell := u.shell
	if base := filepath.Base(shell); shell == "" || base == "nologin" || base == "false" {
		shell = "/bin/sh"
	}
	args := []string{"-" + filepath.Base(shell)}
	if len(argv) > 0 {
		args = append(args, "-c", argv[0], filepath.Base(shell))
		args = append(args, argv[1:]...)
	}
	return shell, args
}

// findProgram finds a program as execvp(3) does.
func findProgram(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		file := name
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		if err := executable(file); err != nil {
			return "", failed("run", name, err)
		}
		return file, nil
	}
	var denied error
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		file := filepath.Join(d, name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if err == syscall.EACCES {
			denied = err
		}
	}
	if denied != nil {
		return "", failed("run", name, denied)
	}
	return "", api.Errorf(api.NotFound, "run %q: no such program in the guest's PATH", name)
}

// executable returns nil for a file that someone may execute. Whether the user
// may is the kernel's answer, later.
func executable(file string) error {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return bare(err)
	case st.IsDir():
		return syscall.EISDIR
	case st.Mode()&0o111 == 0:
		return syscall.EACCES
	}
	return nil
}
