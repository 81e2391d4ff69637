package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu/qmp"
)

func TestParseVersion(t *testing.T) {
	for out, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": "7.2.22",
		"QEMU emulator version 10.0.2\n":                                            "10.0.2",
		"QEMU emulator version 9.2.50 (v9.2.0-1-g0)":                                "9.2.50",
	} {
		if v, err := parseVersion(out); err != nil || v.String() != want {
			t.Errorf("%q: %s, %v", out, v, err)
		}
	}
	for _, out := range []string{"", "hello", "QEMU emulator version", "QEMU emulator version x.y.z"} {
		if _, err := parseVersion(out); api.ClassOf(err) != api.Unavailable {
			t.Errorf("%q: %v", out, err)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[qmp.Version]bool{
		{Major: 7, Minor: 2}: true, {Major: 8}: true, {Major: 7, Minor: 1, Micro: 9}: false, {Major: 6, Minor: 2}: false,
	} {
		err := checkVersion(v)
		if (err == nil) != ok {
			t.Errorf("%s: %v", v, err)
		}
		if err != nil && api.AsError(err).Recovery == "" {
			t.Errorf("%s: no way out", v)
		}
	}
}

func TestCheckProcessor(t *testing.T) {
	for info, ok := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vmx sse\n": true,
		"flags : fpu svm\nbugs : none\n":           true,
		"flags : fpu sse\nbugs : svm vmx\n":        false,
		"vmx flags : vnmi\nflags : fpu\n":          false,
		"":                                         false,
	} {
		path := filepath.Join(t.TempDir(), "cpuinfo")
		if err := os.WriteFile(path, []byte(info), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkProcessor(path); (err == nil) != ok {
			t.Errorf("%q: %v", info, err)
		}
	}
}

func TestResolve(t *testing.T) {
	reason := checkKVM()
	for _, a := range []api.Accel{"", api.AccelAuto, api.AccelKVM, api.AccelTCG} {
		got, err := resolve(a)
		want := api.AccelTCG
		if reason == nil && a != api.AccelTCG {
			want = api.AccelKVM
		}
		if a == api.AccelKVM && reason != nil {
			if api.ClassOf(err) != api.Unavailable || !strings.Contains(err.Error(), reason.Error()) {
				t.Errorf("%q: %v", a, err)
			}
		} else if err != nil || got != want {
			t.Errorf("%q: %q, %v", a, got, err)
		}
	}
}

func TestMissingBinary(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, d := range []*Driver{{}, {Binary: "/nowhere/qemu"}} {
		_, probeErr := d.Probe(t.Context())
		_, hostErr := d.Host(t.Context())
		_, startErr := d.Start(t.Context(), unbooted(t))
		for _, err := range []error{probeErr, hostErr, startErr} {
			e := api.AsError(err)
			if e.Class != api.Unavailable || e.Code != "missing_dependency" || e.Recovery != "Run: smolvm setup" {
				t.Errorf("%+v", e)
			}
		}
	}
}

// TestStrangeBinaries starts programs that are no QEMU, or not the right one.
func TestStrangeBinaries(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"too old":     {`if [ "$1" = --version ]; then echo "QEMU emulator version 6.2.0"; else exit 1; fi`, "6.2.0 is too old"},
		"fails":       {`if [ "$1" = --version ]; then echo "QEMU emulator version 7.2.0"; else echo no disk >&2; exit 3; fi`, "no disk"},
		"talks other": {`echo bad; echo hello >&3; exit 0`, "bad"},
		"old in QMP":  {`echo '{"QMP": {"version": {"qemu": {"major": 5}}}}' >&3; read x <&3; echo '{"return": {}, "id": 1}' >&3; exec sleep 60`, "5.0.0 is too old"},
	} {
		t.Run(name, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "qemu")
			if err := os.WriteFile(binary, []byte("#!/bin/sh\nPATH=/bin:/usr/bin\n"+c.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			config := unbooted(t)
			m, err := (&Driver{Binary: binary}).Start(t.Context(), config)
			if err == nil {
				m.Kill()
				t.Fatal("started")
			}
			if api.ClassOf(err) != api.Unavailable || !strings.Contains(err.Error(), c.want) {
				t.Errorf("class %s: %v", api.ClassOf(err), err)
			}
			mustBeEmpty(t, config.Dir)
		})
	}
}

// TestSilentBinary starts a QEMU that never answers: the context must end it.
func TestSilentBinary(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec /bin/sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := unbooted(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&Driver{Binary: binary}).Start(ctx, config); api.ClassOf(err) != api.Timeout {
		t.Errorf("class %s: %v", api.ClassOf(err), err)
	}
	mustBeEmpty(t, config.Dir)
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil || len(list) > 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// unbooted is a valid config that no real QEMU would boot.
func unbooted(t *testing.T) vmm.Config {
	dir := t.TempDir()
	kernel, initrd := filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	for path, content := range map[string]string{kernel: "\x7fELF", initrd: ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return vmm.Config{Name: "test", Dir: t.TempDir(), CPUs: 1, MemoryMiB: 128, Kernel: kernel, Initrd: initrd}
}

func TestConsoleIsBounded(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, ConsoleLog+".1")
	if err := os.WriteFile(old, []byte("of the last boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := newConsole(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the old log is still there")
	}
	var all strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&all, "line %d of a guest that does not stop\n", i)
	}
	c.copy(strings.NewReader(all.String()))
	first, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(first) + len(last); n > consoleMax || n < consoleMax/2 {
		t.Errorf("%d bytes are kept", n)
	}
	if !strings.HasSuffix(all.String(), string(first)+string(last)) {
		t.Error("the log is not the end of what was written")
	}
	if got := c.tail.String(); len(got) > tailMax || !strings.HasSuffix(all.String(), got+"\n") {
		t.Errorf("tail is %q", got)
	}
}

func TestConsoleWithoutDisk(t *testing.T) {
	dir := t.TempDir()
	c, err := newConsole(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.half = 4
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := c.Write([]byte("12345")); n != 5 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if c.tail.String() != "123451234512345" {
		t.Errorf("tail %q", c.tail.String())
	}
}

func TestTailIsFitForTerminals(t *testing.T) {
	var b tail
	b.Write([]byte("\x1b]0;title\x07 red \x1b[31m\r\n\ttab \u202e \xff\x00é"))
	if got, want := b.String(), "]0;title red [31m\n\ttab  \ufffdé"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
