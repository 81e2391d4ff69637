package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

const (
	// hooksDir holds the image's own programs for a resumed guest or a copy.
	hooksDir = "/etc/smolvm/resume.d"
	// hooksGroup and a number is the control group that the hooks of one resume run
	// in. It is a new one, which is not among those that stand still; what its hooks
	// leave running stands still with all others when the guest is saved again.
	hooksGroup = "smolvm-hooks-"
	// hookTime bounds each hook.
	hookTime = 10 * time.Second
	// maxHooks bounds their number.
	maxHooks = 64
)

// runHooks runs the image's hooks as root, one after the other in the order of
// their names. One that fails is reported and holds nobody up.
func (r *renewal) runHooks() {
	var st unix.Stat_t
	if unix.Stat(r.a.root+hooksDir, &st) == unix.ENOENT {
		return
	}
	names, err := readNames(r.a.root + hooksDir)
	if err != nil {
		r.try("list hooks", err)
		return
	}
	slices.Sort(names)
	for _, name := range names[:min(len(names), maxHooks)] {
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue // what editors leave
		}
		r.try("hook "+name, r.runHook(hooksDir+"/"+name))
	}
	if len(names) > 0 {
		r.lap("hooks")
	}
}

func (r *renewal) runHook(path string) error {
	if err := trusted(r.a.root + path); err != nil {
		return err
	}
	kind := "resume"
	if r.s.Copy {
		kind = "copy"
	}
	return r.a.runHelper(hookTime, []string{r.a.root + path},
		"SMOLVM_SANDBOX="+readHostname(), "SMOLVM_RESUME="+kind)
}

func readHostname() string {
	var u unix.Utsname
	unix.Uname(&u)
	return unix.ByteSliceToString(u.Nodename[:])
}

// trusted refuses a program that someone other than root could have written.
func trusted(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return syscall.EINVAL
	case st.Uid != 0 || st.Mode&0o022 != 0:
		return api.Errorf(api.Denied, "it must belong to root and be writable by root alone")
	}
	return nil
}

// runHelper runs a program of the image for the agent itself, while the guest's
// processes may stand still. The error tells the end of what it said.
func (a *Agent) runHelper(limit time.Duration, argv []string, env ...string) error {
	e := guest.Exec{Argv: argv, Env: env, Dir: "/", TimeoutMS: limit.Milliseconds()}
	plan, err := a.prepare(&e)
	if err != nil {
		return err
	}
	p, err := a.startIn(a.hookGroups(), plan, &e)
	if err != nil {
		return err
	}
	var out tail
	exit := p.runLimited(&out, &e)
	switch {
	case exit.TimedOut:
		return api.Errorf(api.Timeout, "it took longer than %v: %s", limit, out.text())
	case exit.Code != 0:
		return api.Errorf(api.Unavailable, "exit status %d: %s", exit.Code, out.text())
	}
	return nil
}

// hookGroups are the groups for programs of the resume under way.
func (a *Agent) hookGroups() *cgroups {
	if a.hooks.dir == "" && a.o.Cgroups != "" {
		a.resumes++
		dir := filepath.Join(a.o.Cgroups, hooksGroup+strconv.Itoa(a.resumes))
		if os.Mkdir(dir, 0o755) == nil {
			a.hooks.dir = dir
		}
	}
	return &a.hooks
}

// endHooks ends the use of the groups. Those that are empty are removed.
func (a *Agent) endHooks() {
	if a.hooks.dir == "" {
		return
	}
	a.hooks.close()
	os.Remove(a.hooks.dir)
	a.hooks.dir = ""
}

// tail keeps the end of a program's output.
type tail struct{ b []byte }

// maxTail is how much of it, in bytes.
const maxTail = 200

func (t *tail) output(_ guest.Kind, p []byte) {
	t.b = append(t.b, p[max(0, len(p)-maxTail):]...)
	t.b = t.b[max(0, len(t.b)-maxTail):]
}

func (t *tail) flush() {}

func (t *tail) text() string { return strings.TrimSpace(string(t.b)) }
