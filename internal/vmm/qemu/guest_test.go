package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
)

// Environment variables for TestVM in a guest that has KVM, where a kernel and an
// initramfs cannot be made. An empty accelerator means the best that is there.
const (
	envVmlinux = "SMOLVM_TEST_VMLINUX"
	envInitrd  = "SMOLVM_TEST_INITRD"
	envAccel   = "SMOLVM_TEST_ACCEL"
)

// guest builds vmmtest's guest and returns the paths of a kernel and of an
// initramfs with it as its init. The kernel is the user's own, fetched where
// there is none.
func guest(t testing.TB) (vmlinux, initrd string) {
	t.Helper()
	if vmlinux, initrd = os.Getenv(envVmlinux), os.Getenv(envInitrd); vmlinux != "" && initrd != "" {
		return vmlinux, initrd
	}
	k, err := currentKernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	initrd, err = initramfs.Build(s, k, buildInit(t))
	if err != nil {
		t.Fatal(err)
	}
	return k.Vmlinux(), initrd
}

func currentKernel(ctx context.Context) (kernel.Kernel, error) {
	s, err := store.Open("")
	if err != nil {
		return kernel.Kernel{}, err
	}
	k, err := kernel.Current(s)
	if api.ClassOf(err) == api.Unavailable {
		k, err = kernel.Fetch(ctx, s, kernel.Options{})
	}
	return k, err
}

func buildInit(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path,
		"github.com/smolvm/smolvm/internal/vmm/vmmtest/testguest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the test guest: %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
