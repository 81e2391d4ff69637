package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// Requests of linux/kvm.h.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
	kvmAPIVersion    = 12 // the only one there has ever been since Linux 2.6.22
)

const (
	kvmDevice = "/dev/kvm"
	cpuInfo   = "/proc/cpuinfo"
)

// checkKVM returns nil where KVM can really be used, else the reason it cannot.
// That the device is there says little: containers show it without allowing it,
// it opens on hosts whose hypervisor keeps virtualisation off, and some KVMs do
// not stand on the processor's virtualisation at all (such as the paravirtual
// one, PVM): they make machines, and run an ordinary kernel one emulated
// instruction at a time, a thousand times slower than TCG.
func checkKVM() error {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not there: the processor, the firmware or the cloud provider offers no virtualisation", kvmDevice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be opened by this user: join the group kvm", kvmDevice)
	case err != nil:
		return err
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", kvmDevice, err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("%s has API version %d, not %d", kvmDevice, version, kvmAPIVersion)
	}
	vm, err := unix.IoctlRetInt(int(f.Fd()), kvmCreateVM)
	if err != nil {
		return fmt.Errorf("%s makes no machine: %w", kvmDevice, err)
	}
	unix.Close(vm)
	return checkProcessor(cpuInfo)
}

// checkProcessor returns nil where the processor that the file describes shows
// this system an extension for virtual machines: VMX is Intel's, SVM AMD's.
func checkProcessor(file string) error {
	info, err := firstProcessor(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(info) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		if f := strings.Fields(flags); slices.Contains(f, "vmx") || slices.Contains(f, "svm") {
			return nil
		}
	}
	return fmt.Errorf("%s is there, but the processor shows neither VMX nor SVM: it would emulate in software", kvmDevice)
}

// resolve returns the accelerator to use: KVM or TCG.
func resolve(a api.Accel) (api.Accel, error) {
	if a == api.AccelTCG {
		return a, nil
	}
	err := checkKVM()
	switch {
	case err == nil:
		return api.AccelKVM, nil
	case a == api.AccelKVM:
		return "", api.Errorf(api.Unavailable, "use KVM: %w", err).
			WithRecovery("Use the accelerator %s or %s.", api.AccelAuto, api.AccelTCG)
	}
	return api.AccelTCG, nil
}
