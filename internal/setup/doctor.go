package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/agentbin"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Status is what a check found.
type Status string

const (
	OK   Status = "ok"
	Warn Status = "warn" // sandboxes start, but with less than there could be
	Fail Status = "fail" // no sandbox can start
)

// Check is one requirement and what was found.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do where Status is not OK
}

// Report is what Doctor found.
type Report struct {
	// Isolation is the level that a sandbox would get. Empty: none would start.
	Isolation api.Isolation `json:"isolation,omitempty"`
	System    string        `json:"system"`
	Arch      string        `json:"arch"`
	Checks    []Check       `json:"checks"`
	Summary   Summary       `json:"summary"`
}

// Summary counts the checks that are not OK.
type Summary struct {
	Failures int  `json:"failures"`
	Warnings int  `json:"warnings"`
	OK       bool `json:"ok"` // a sandbox could start
}

// Doctor looks at everything that a sandbox needs. It changes nothing.
func (h Host) Doctor(ctx context.Context) Report {
	caps, probeErr := h.Driver.Probe(ctx)
	r := Report{System: systemName(), Arch: arch()}
	r.Checks = append(r.Checks, checkVMM(caps, probeErr))
	if probeErr == nil {
		r.Isolation = caps.Isolation
		r.Checks = append(r.Checks, checkKVM(caps), checkIsolation(caps))
	}
	r.Checks = append(r.Checks,
		checkAgent(),
		h.checkKernel(),
		h.checkImage(ctx),
		checkMkfs(),
		h.checkSpace(),
		checkUserNamespaces(ctx),
		checkLandlock(),
		checkSeccomp(),
	)
	for _, c := range r.Checks {
		switch c.Status {
		case Fail:
			r.Summary.Failures++
		case Warn:
			r.Summary.Warnings++
		}
	}
	r.Summary.OK = r.Summary.Failures == 0
	if !r.Summary.OK {
		r.Isolation = ""
	}
	return r
}

// failed makes a check of an error.
func failed(name string, err error, fix string) Check {
	e := api.AsError(err)
	if e.Recovery != "" {
		fix = e.Recovery
	}
	return Check{Name: name, Status: Fail, Detail: e.Message, Fix: fix}
}

func checkVMM(c vmm.Capabilities, err error) Check {
	if err != nil {
		return failed("qemu", err, fixSetup)
	}
	return Check{Name: "qemu", Status: OK, Detail: fmt.Sprintf("%s, %s", c.Version, c.Binary)}
}

func checkKVM(c vmm.Capabilities) Check {
	if c.Accel == api.AccelKVM {
		return Check{Name: "kvm", Status: OK, Detail: "usable"}
	}
	return Check{Name: "kvm", Status: Warn, Detail: c.NoKVM, Fix: fixKVM()}
}

// fixKVM says what to do about KVM: often it is there and belongs to a group.
func fixKVM() string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return "Give yourself access: sudo usermod -aG kvm $USER, then log in again."
	}
	if err == nil {
		f.Close()
	}
	return "Turn virtualisation on in the firmware or, in a virtual machine, nested virtualisation at its host. Sandboxes work without, but slower."
}

func checkIsolation(c vmm.Capabilities) Check {
	if c.Isolation == api.Hardware {
		return Check{Name: "isolation", Status: OK, Detail: "hardware: guest kernel, KVM and an unprivileged QEMU"}
	}
	return Check{
		Name: "isolation", Status: Warn,
		Detail: "emulated: guest kernel and QEMU's emulator, which its authors do not call a security boundary",
		Fix:    "Use a host with KVM for code you do not trust at all; --min-isolation hardware refuses less.",
	}
}

func checkAgent() Check {
	b, err := agentbin.Bytes()
	if err != nil {
		return failed("agent", err, "Build with: make build")
	}
	return Check{Name: "agent", Status: OK, Detail: fmt.Sprintf("built in, %d KiB", len(b)>>10)}
}

func (h Host) checkKernel() Check {
	k, err := kernel.Current(h.Store)
	if err != nil {
		return failed("kernel", err, fixSetup)
	}
	return Check{Name: "kernel", Status: OK, Detail: k.String()}
}

func (h Host) checkImage(ctx context.Context) Check {
	const name = "image"
	if err := h.Images.Has(ctx, api.DefaultImage); err != nil {
		return Check{Name: name, Status: Fail, Detail: api.AsError(err).Message, Fix: fixSetup}
	}
	return Check{Name: name, Status: OK, Detail: api.DefaultImage + " is here"}
}

func checkMkfs() Check {
	path, err := findTool("mkfs.ext4")
	if err != nil {
		return Check{Name: "mkfs.ext4", Status: Fail, Detail: "not found", Fix: "Install e2fsprogs, or run: smolvm setup"}
	}
	return Check{Name: "mkfs.ext4", Status: OK, Detail: path}
}

// fixSetup is the fix of everything that setup installs.
const fixSetup = "Run: smolvm setup"

// lines joins what a tool said to one line.
func lines(s string) string { return strings.Join(strings.Fields(s), " ") }
