package qemu

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/initramfs"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// TestKVMNested holds the driver under KVM to the law on hosts without KVM. TCG
// emulates AMD's SVM, so a guest that has loaded kvm-amd has a /dev/kvm that
// works. In such a guest this test binary is the init and runs TestVM.
func TestKVMNested(t *testing.T) {
	k, err := currentKernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := initramfs.Build(s, k, testBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	c := vmm.Config{
		Name: "nested KVM of " + t.TempDir(), Dir: t.TempDir(), CPUs: 2, MemoryMiB: 2048, Accel: api.AccelTCG,
		Kernel: k.Vmlinux(), Initrd: initrd,
		Disks: []vmm.Disk{{Path: nestedFiles(t, k), Format: vmm.Raw, ReadOnly: true}},
	}
	m, err := new(Driver).Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // one minute on a quiet host
	defer cancel()
	select {
	case <-m.Done():
	case <-ctx.Done():
		t.Error("the tests in the guest do not end")
	}
	log, err := os.ReadFile(m.Info().Console)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte(nestedPassed)) || m.Err() != nil {
		t.Errorf("%v\n%s", m.Err(), log)
	}
}

// nestedPassed is what the guest prints at a good end.
const nestedPassed = "nested tests: passed"

// testBinary builds this package's tests for a guest without libraries.
func testBinary(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu.test")
	cmd := exec.Command("go", "test", "-c", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nestedFiles makes a disk that is a tar archive of QEMU with all it needs, the
// modules of KVM, and the inner guest's kernel and initramfs.
func nestedFiles(t *testing.T, k kernel.Kernel) string {
	t.Helper()
	vmlinux, initrd := guest(t)
	modules := kvmModules(t, k)
	binary, err := new(Driver).binary()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"vmlinux": vmlinux, "initrd": initrd, "usr/bin/qemu-system-x86_64": binary,
		"kvm/1.ko": modules["irqbypass"], "kvm/2.ko": modules["kvm"], "kvm/3.ko": modules["kvm-amd"],
	}
	libraries, err := exec.Command("ldd", binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range strings.Fields(string(libraries)) {
		if strings.HasPrefix(w, "/") {
			files[w[1:]] = w
		}
	}
	for _, dir := range []string{"/usr/share/qemu", "/usr/share/seabios"} {
		roms, err := filepath.Glob(filepath.Join(dir, "*.[br][io][nm]")) // .bin, .rom
		if err != nil || len(roms) == 0 {
			t.Fatalf("no firmware in %s: %v", dir, err)
		}
		for _, r := range roms {
			files[r[1:]] = r
		}
	}
	path := filepath.Join(t.TempDir(), "files.tar")
	if err := writeTar(path, files); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeTar(path string, files map[string]string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for name, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(b))}); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return w.Close()
}

// kvmModules unpacks the kernel's package, which has more modules than the store
// keeps, and returns the paths of those of KVM.
func kvmModules(t *testing.T, k kernel.Kernel) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"apt-get", "download", k.Meta.Package + "=" + k.Meta.Version},
		{"sh", "-c", "dpkg-deb -x linux-image-*.deb ."},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	found := map[string]string{"irqbypass": "", "kvm": "", "kvm-amd": ""}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			if _, wanted := found[name]; wanted {
				found[name] = path
			}
		}
		return err
	})
	if err != nil || found["irqbypass"] == "" || found["kvm"] == "" || found["kvm-amd"] == "" {
		t.Fatalf("modules %v: %v", found, err)
	}
	return found
}

// nestedInit is the init of the outer guest. It never returns: the machine ends.
func nestedInit() {
	err := nestedTests()
	if err == nil {
		fmt.Println(nestedPassed)
	} else {
		fmt.Println("nested tests:", err)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func nestedTests() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	load, err := os.ReadFile("/modules/load")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(load)) {
		if err := loadModule("/modules/" + name + ".ko"); err != nil {
			return err
		}
	}
	if err := unpackDisk("/dev/vda"); err != nil {
		return err
	}
	for _, m := range []string{"/kvm/1.ko", "/kvm/2.ko", "/kvm/3.ko"} {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	// Its own timeout says where it hangs, before ours says that it does.
	cmd := exec.Command("/init", "-test.run=^TestVM$", "-test.v", "-test.timeout=12m")
	cmd.Env = []string{
		"PATH=/usr/bin", "HOME=/tmp", envVmlinux + "=/vmlinux", envInitrd + "=/initrd", envAccel + "=" + string(api.AccelKVM),
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

func unpackDisk(path string) error {
	f, err := os.Open(path)
	for end := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(end); f, err = os.Open(path) {
		time.Sleep(10 * time.Millisecond) // until its driver has found it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		to := filepath.Join("/", h.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			return err
		}
	}
}
