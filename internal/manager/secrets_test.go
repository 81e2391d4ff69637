package manager_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/secret"
	"github.com/smolvm/smolvm/internal/testenv"
)

const secretValue = "sk-the-real-value-of-the-secret"

// nowhere finds a value in no file of the state directory, and in no process's
// arguments or environment.
func (l *life) nowhere(value string) {
	l.Helper()
	looked := 0
	err := filepath.WalkDir(l.Home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		looked++
		found, err := contains(path, value)
		if found {
			l.Errorf("the value is in %s", path)
		}
		return err
	})
	l.ok(err)
	processes := testenv.Processes(l.Home)
	if looked < 5 || len(processes) == 0 {
		l.Errorf("only %d files and %d processes to look at", looked, len(processes))
	}
	for _, p := range processes {
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID, name))
			if err == nil && bytes.Contains(b, []byte(value)) {
				l.Errorf("the value is in %s of %s", name, p)
			}
		}
		if strings.Contains(strings.Join(p.Args, " "), "supervise") {
			// One that has just begun forbids it before it reads what it is told.
			l.eventually(p.String()+" cannot leave a core file", func() bool { return noCore(p.PID) })
		}
	}
}

// noCore reports whether a process cannot leave a core, or has ended. Where cores go
// to a program, 1 forbids it and 0 does not; a hard limit of 0 stays.
func noCore(pid int) bool {
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CORE, &own) != nil {
		return false
	}
	want := strconv.FormatUint(min(own.Max, 1), 10)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	_, line, _ := strings.Cut(string(limits), "Max core file size")
	f := strings.Fields(line)
	return err != nil || len(f) > 1 && f[0] == want && f[1] == want
}

// contains reports whether a value is in a file. Memory's files are mostly holes.
func contains(path, value string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return false, err
		}
		b := make([]byte, end-start)
		if _, err := f.ReadAt(b, start); err != nil {
			return false, err
		}
		if bytes.Contains(b, []byte(value)) {
			return true, nil
		}
		at = end
	}
}

// TestSecretsStayOut grows a sandbox with a secret in all ways that leave something:
// the value is in none of it.
func TestSecretsStayOut(t *testing.T) {
	t.Setenv("API_KEY", secretValue) // as a client that takes it from its environment
	l := newLife(t)
	spec := smolvm.Spec{Name: "web", Secrets: []api.Secret{{Name: "API_KEY", Hosts: []string{"api.example.com"}, Value: secretValue}}}
	sb := l.create(spec)
	r, err := sb.Run(l.ctx, smolvm.ShellCommand("echo $API_KEY"))
	l.ok(err)
	if got := string(r.Stdout); !strings.HasPrefix(got, secret.Prefix) {
		t.Errorf("the guest has %q", got)
	}
	l.ok(sb.Pause(l.ctx))
	l.ok(sb.Resume(l.ctx))
	l.snapshot(sb, "saved")
	l.checkpoint(sb, "step")
	l.fork(sb, smolvm.ForkOptions{})
	l.create(smolvm.Spec{FromSnapshot: "saved"})
	_, err = sb.Expose(l.ctx, api.Port{GuestPort: 1})
	l.ok(err)
	info, err := sb.Info(l.ctx)
	l.ok(err)
	list, err := sb.Secrets(l.ctx)
	l.ok(err)
	for _, v := range []any{info, list} {
		b, err := json.Marshal(v)
		l.ok(err)
		if bytes.Contains(b, []byte(secretValue)) || !bytes.Contains(b, []byte("API_KEY")) {
			t.Errorf("%s", b)
		}
	}
	l.nowhere(secretValue)
	l.hibernate(sb)
	l.nowhere(secretValue)
	l.says(sb, "echo awake", "awake")
	l.kill(sb)
	l.ok(sb.Start(l.ctx))
	l.nowhere(secretValue)
	l.pool(smolvm.Pool{Size: 1})
	spec.Name = "pooled"
	taken := l.claimed(spec)
	list, err = taken.Secrets(l.ctx)
	if err != nil || len(list) != 1 || !list[0].Ready {
		t.Errorf("%+v, %v", list, err)
	}
	_, err = taken.SetSecret(l.ctx, api.Secret{Name: "SECOND", Hosts: []string{"api.example.com"}, Value: secretValue})
	l.ok(err)
	l.nowhere(secretValue)
	_, err = l.Create(l.ctx, smolvm.Spec{Secrets: []api.Secret{{Name: "BAD", Value: secretValue}}})
	l.fails(err, api.ErrInvalid, "BAD")
	if strings.Contains(err.Error(), secretValue) {
		t.Error(err)
	}
	l.nowhere(secretValue)
}

var secretLaws = []law{
	{"a value lives as long as its supervisor", func(l *life) {
		sb := l.create(smolvm.Spec{Secrets: []api.Secret{{Name: "KEY", Hosts: []string{"a.example"}, Value: secretValue}}})
		is := func(ready bool, hosts string) api.SecretStatus {
			l.Helper()
			list, err := sb.Secrets(l.ctx)
			if err != nil || len(list) != 1 || list[0].Ready != ready || strings.Join(list[0].Hosts, ",") != hosts {
				l.Fatalf("%+v, %v", list, err)
			}
			return list[0]
		}
		first := is(true, "a.example")
		l.says(sb, "echo $KEY", first.Placeholder)
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		is(false, "a.example")
		_, err := sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Value: "x"})
		l.fails(err, api.ErrUnavailable, "stopped")
		l.ok(sb.Start(l.ctx))
		is(false, "a.example")
		l.says(sb, "echo $KEY", first.Placeholder) // the same: processes that sleep have it
		st, err := sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Value: "x"})
		if err != nil || !st.Ready || st.Placeholder != first.Placeholder {
			l.Errorf("%+v, %v", st, err)
		}
		is(true, "a.example")
		_, err = sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Value: "x", Hosts: []string{"b.example"}})
		l.ok(err)
		is(true, "b.example")
		l.hibernate(sb)
		l.says(sb, "echo $KEY", first.Placeholder)
		is(false, "b.example")
	}},
	{"set and removed at any time", func(l *life) {
		sb := l.create(smolvm.Spec{Env: map[string]string{"PLAIN": "1"}})
		_, err := sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Value: "x"})
		l.fails(err, api.ErrInvalid, "no host")
		_, err = sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Hosts: []string{"a.example"}})
		l.fails(err, api.ErrInvalid, "no value")
		_, err = sb.SetSecret(l.ctx, api.Secret{Name: "PLAIN", Hosts: []string{"a.example"}, Value: "x"})
		l.refused(err, api.ErrConflict, "", "env unset")
		st, err := sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Hosts: []string{"a.example"}, Value: "x"})
		l.ok(err)
		l.says(sb, "echo $KEY", st.Placeholder)
		l.ok(sb.RemoveSecret(l.ctx, "KEY"))
		l.says(sb, "echo [$KEY]", "[]")
		l.fails(sb.RemoveSecret(l.ctx, "KEY"), api.ErrNotFound, "KEY")
		_, err = sb.SetSecret(l.ctx, api.Secret{Name: "KEY", Hosts: []string{"a.example"}, Value: "x"})
		l.ok(err)
		l.ok(sb.Stop(l.ctx, smolvm.StopOptions{}))
		l.ok(sb.RemoveSecret(l.ctx, "KEY"))
		list, err := sb.Secrets(l.ctx)
		if err != nil || len(list) != 0 {
			l.Errorf("%+v, %v", list, err)
		}
	}},
	{"children have placeholders and no values", func(l *life) {
		sb := l.create(smolvm.Spec{Secrets: []api.Secret{{Name: "KEY", Hosts: []string{"a.example"}, Value: secretValue}}})
		list, err := sb.Secrets(l.ctx)
		l.ok(err)
		child := l.fork(sb, smolvm.ForkOptions{})[0]
		theirs, err := child.Secrets(l.ctx)
		if err != nil || len(theirs) != 1 || theirs[0].Ready || theirs[0].Placeholder != list[0].Placeholder {
			l.Errorf("%+v, %v", theirs, err)
		}
	}},
}

func TestSecretLaws(t *testing.T) { hold(t, secretLaws) }
