package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// images is an image store in memory.
type images struct{ have []string }

func (i *images) Has(_ context.Context, ref string) error {
	if slices.Contains(i.have, ref) {
		return nil
	}
	return api.Errorf(api.NotFound, "find image %q: it is not here", ref)
}

func (i *images) Get(_ context.Context, ref string, p progress.Func) error {
	p.Report(progress.Progress{Step: "get " + ref})
	if ref == "broken" {
		return errors.New("it cannot be had")
	}
	i.have = append(i.have, ref)
	return nil
}

// prober is a driver that only probes.
type prober struct {
	vmm.Driver
	caps vmm.Capabilities
	err  error
}

func (p prober) Probe(context.Context) (vmm.Capabilities, error) { return p.caps, p.err }

func host(t *testing.T, p prober, have ...string) Host {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return Host{Store: s, Driver: p, Images: &images{have}}
}

var (
	kvm = prober{caps: vmm.Capabilities{Version: "8.0.0", Binary: "/q", Accel: api.AccelKVM, Isolation: api.Hardware}}
	tcg = prober{caps: vmm.Capabilities{Version: "7.2.0", Binary: "/q", Accel: api.AccelTCG, Isolation: api.Emulated, NoKVM: "no device"}}
)

func find(t *testing.T, r Report, name string) Check {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no check %s in %+v", name, r.Checks)
	}
	return r.Checks[i]
}

func TestDoctorSaysWhatIsMissing(t *testing.T) {
	r := host(t, tcg).Doctor(t.Context())
	for name, want := range map[string]Status{
		"qemu": OK, "kvm": Warn, "isolation": Warn, "kernel": Fail, "image": Fail, "disk": OK,
	} {
		if c := find(t, r, name); c.Status != want || c.Detail == "" || (want != OK) != (c.Fix != "") {
			t.Errorf("%s: %+v, want %s, with a fix where it is not ok", name, c, want)
		}
	}
	if r.Summary.OK || r.Summary.Failures < 2 || r.Isolation != "" {
		t.Errorf("summary %+v, isolation %q: no sandbox could start", r.Summary, r.Isolation)
	}
}

func TestDoctorWithoutQEMU(t *testing.T) {
	p := prober{err: api.Errorf(api.Unavailable, "QEMU is not here").WithRecovery("Install it.")}
	r := host(t, p).Doctor(t.Context())
	if c := find(t, r, "qemu"); c.Status != Fail || c.Fix != "Install it." {
		t.Errorf("%+v", c)
	}
	if slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Name == "kvm" }) {
		t.Error("KVM is judged without QEMU")
	}
}

func TestDoctorNamesTheIsolation(t *testing.T) {
	r := host(t, kvm).Doctor(t.Context())
	if c := find(t, r, "isolation"); c.Status != OK || !strings.HasPrefix(c.Detail, "hardware") {
		t.Errorf("%+v", c)
	}
	if c := find(t, r, "kvm"); c.Status != OK {
		t.Errorf("%+v", c)
	}
}

// step returns a plan of one step that records that it ran.
func step(name string, ran *[]string, err error) Step {
	return Step{Name: name, run: func(context.Context, progress.Func) (string, error) {
		*ran = append(*ran, name)
		return "done " + name, err
	}}
}

func TestPlanRunsWhatIsMissingInOrder(t *testing.T) {
	var ran, told []string
	there := step("b", &ran, nil)
	there.Done = true
	p := Plan{[]Step{step("a", &ran, nil), there, step("c", &ran, nil)}}
	w := Watcher{Done: func(s Step) { told = append(told, s.Detail) }}
	if err := p.Run(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(ran, told) != "[a c] [done a done c]" || !p.Complete() {
		t.Errorf("ran %q, told %q, %+v", ran, told, p)
	}
	if err := p.Run(t.Context(), w); err != nil || len(ran) != 2 {
		t.Errorf("a second run did %q, %v", ran, err)
	}
}

func TestPlanStopsAtAnError(t *testing.T) {
	var ran []string
	broken := errors.New("broken")
	p := Plan{[]Step{step("a", &ran, nil), step("b", &ran, broken), step("c", &ran, nil)}}
	if err := p.Run(t.Context(), Watcher{}); !errors.Is(err, broken) {
		t.Fatalf("Run = %v", err)
	}
	if fmt.Sprint(ran) != "[a b]" || !p.Steps[0].Done || p.Steps[1].Done || p.Complete() {
		t.Errorf("ran %q, %+v", ran, p)
	}
}

func TestImageStep(t *testing.T) {
	h := host(t, kvm, api.DefaultImage)
	if s := h.imageStep(t.Context(), api.DefaultImage); !s.Done {
		t.Errorf("the image is here: %+v", s)
	}
	s := h.imageStep(t.Context(), "other")
	if s.Done {
		t.Fatalf("the image is not here: %+v", s)
	}
	if _, err := s.run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if s := h.imageStep(t.Context(), "other"); !s.Done {
		t.Errorf("the image was got: %+v", s)
	}
}

func TestPlanChecksTheKernelFile(t *testing.T) {
	h := host(t, kvm)
	for _, path := range []string{"/no/such/file", t.TempDir()} {
		if _, err := h.Plan(t.Context(), Options{Kernel: path}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("Plan with kernel %s: %v, want class invalid", path, err)
		}
	}
}

func TestKernelFiles(t *testing.T) {
	dir := t.TempDir()
	deb, plain := filepath.Join(dir, "a.deb"), filepath.Join(dir, "vmlinuz")
	for path, content := range map[string]string{deb: "!<arch>\nrest", plain: "short"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !isDeb(deb) || isDeb(plain) || isDeb(filepath.Join(dir, "nothing")) {
		t.Error("Debian packages are not told from other files")
	}
	if _, err := modulesOf(plain); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("modulesOf without modules: %v", err)
	}
	want := filepath.Join(dir, "modules")
	if err := os.Mkdir(want, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := modulesOf(plain); err != nil || got != want {
		t.Errorf("modulesOf = %q, %v, want %q", got, err, want)
	}
}

// fakeTools makes a PATH of programs that are scripts.
func fakeTools(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestInstallRunsAptAndSaysWhatItSaid(t *testing.T) {
	calls := filepath.Join(t.TempDir(), "calls")
	t.Setenv("CALLS", calls)
	fakeTools(t, map[string]string{
		"env":     "shift; exec \"$@\"\n",
		"sudo":    "shift; exec \"$@\"\n",
		"true":    "",
		"apt-get": "echo \"$@\" >> \"$CALLS\"; echo \"apt  says $1\"\n",
	})
	var said []string
	report := func(p progress.Progress) { said = append(said, p.Line) }
	if err := install(t.Context(), []string{"one", "two"}, report); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if want := "update -q\ninstall -y -q --no-install-recommends one two\n"; string(b) != want {
		t.Errorf("apt-get was called with %q, want %q", b, want)
	}
	if fmt.Sprint(said) != "[apt says update apt says install]" {
		t.Errorf("progress %q", said)
	}
}

func TestInstallShowsWhyAptFailed(t *testing.T) {
	fakeTools(t, map[string]string{
		"env":     "shift; exec \"$@\"\n",
		"sudo":    "shift; exec \"$@\"\n",
		"true":    "",
		"apt-get": "echo E: no such package >&2; exit 100\n",
	})
	err := install(t.Context(), []string{"one"}, nil)
	if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "E: no such package") {
		t.Errorf("install = %v", err)
	}
}

func TestInstallWithoutApt(t *testing.T) {
	fakeTools(t, nil)
	err := install(t.Context(), []string{"e2fsprogs"}, nil)
	e := api.AsError(err)
	if e.Class != api.Unavailable || e.Code != "missing_dependency" || !strings.Contains(e.Recovery, "mkfs.ext4") {
		t.Errorf("install = %+v, want the programs that are needed", e)
	}
}

func TestFollowKeepsTheEnd(t *testing.T) {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "line %d\n\n", i)
	}
	last := follow(io.MultiReader(strings.NewReader(b.String()), strings.NewReader(strings.Repeat("x", 1<<20))), nil)
	if len(last) != lastLines || last[lastLines-1] != "line 99" {
		t.Errorf("%d lines, the last %q", len(last), last[len(last)-1])
	}
}
