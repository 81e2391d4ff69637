package boot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

const modulesDir = "/modules"

// loadModules loads the modules that the initramfs lists, in its order.
func (b *booter) loadModules() error {
	list, err := os.ReadFile(modulesDir + "/load")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel with everything built in
	}
	if err != nil {
		return api.Errorf(api.Internal, "load modules: %w", err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		if err := loadModule(filepath.Join(modulesDir, strings.TrimSuffix(name, ".ko")+".ko")); err != nil {
			return api.Errorf(api.Internal, "load module %s: %w", name, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// deviceTime bounds the wait for a device. Under emulation on a busy host the
// slowest was seen after two seconds.
const deviceTime = 60 * time.Second

// awaitDisks waits until every disk that the machine has can be opened.
func (b *booter) awaitDisks() error {
	if b.events.await(deviceTime, disksReady) {
		return nil
	}
	return api.Errorf(api.Unavailable, "wait for %s: it did not appear in %v", baseDisk, deviceTime)
}

// virtioBlock is the identity of a disk on the virtio bus.
const virtioBlock = "0x0002"

func disksReady() bool {
	devices, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	disks := 0
	for _, d := range devices {
		id, _ := os.ReadFile(d)
		if string(bytes.TrimSpace(id)) == virtioBlock {
			disks++
		}
	}
	nodes, _ := filepath.Glob("/dev/vd?")
	return len(nodes) >= max(disks, 1) && exists(baseDisk)
}

// openPort waits for the port to the host and opens it.
func (b *booter) openPort() (*port, error) {
	path := ""
	found := func() bool {
		path = findPort()
		return path != "" && exists(path)
	}
	if !b.events.await(deviceTime, found) {
		return nil, api.Errorf(api.Unavailable, "wait for the virtio port %s: it did not appear in %v", portName, deviceTime)
	}
	return openPort(path)
}

// findPort returns the device of the port, and nothing while it is not there:
// the host tells the names after the driver has started.
func findPort() string {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, n := range names {
		b, _ := os.ReadFile(n)
		if string(bytes.TrimSpace(b)) == portName {
			return "/dev/" + filepath.Base(filepath.Dir(n))
		}
	}
	return ""
}

// uevents is the kernel's announcements of devices.
type uevents struct{ fd int }

// kernelGroup is the netlink group of the kernel's own announcements.
const kernelGroup = 1

func listen() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, api.Errorf(api.Internal, "listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, api.Errorf(api.Internal, "listen for devices: %w", err)
	}
	return &uevents{fd}, nil
}

// await looks at ready after each announcement until it is true.
func (u *uevents) await(limit time.Duration, ready func() bool) bool {
	deadline := time.Now().Add(limit)
	for !ready() {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		unix.Poll([]unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		u.drain()
	}
	return true
}

// drain drops what was announced: it only says that there is something to look at.
func (u *uevents) drain() {
	var b [4096]byte
	for {
		if _, err := unix.Read(u.fd, b[:]); err != nil && err != unix.ENOBUFS {
			return
		}
	}
}

func (u *uevents) close() { unix.Close(u.fd) }
