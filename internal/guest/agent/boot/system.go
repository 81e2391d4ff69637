package boot

import (
	"errors"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	defaultHostname = "sandbox"
	maxHostname     = 64 // of the kernel, in bytes
)

// system brings up what programs expect of a machine that runs.
func (b *booter) system() error {
	if err := b.secondMounts(); err != nil {
		return err
	}
	loopbackUp()
	for _, f := range []struct {
		path string
		mode fs.FileMode
	}{{"/tmp", 0o1777}, {"/var/tmp", 0o1777}, {"/root", 0o700}, {"/etc", 0o755}} {
		makeDir(f.path, f.mode)
	}
	name := firstLine("/etc/hostname", defaultHostname)
	unix.Sethostname([]byte(name))
	fillIn("/etc/hostname", name+"\n")
	fillIn("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t"+name+"\n")
	fillIn("/etc/resolv.conf", "")
	// The keys of the console's reboot are nobody's.
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	return nil
}

// makeDir makes a directory that an image left out.
func makeDir(path string, mode fs.FileMode) {
	if os.MkdirAll(path, 0o755) == nil && !hasMode(path, mode) {
		unix.Chmod(path, uint32(mode))
	}
}

func hasMode(path string, mode fs.FileMode) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&0o7777 == uint32(mode)
}

func firstLine(path, otherwise string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return otherwise
	}
	for i, c := range b {
		if c == '\n' {
			b = b[:i]
			break
		}
	}
	if len(b) == 0 || len(b) > maxHostname {
		return otherwise
	}
	return string(b)
}

// fillIn writes a file that is missing. One that is there is the image's choice.
func fillIn(path, text string) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		os.WriteFile(path, []byte(text), 0o644)
	}
}

// loopbackUp brings up lo, without which nothing listens on 127.0.0.1.
func loopbackUp() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	ioctl(fd, unix.SIOCSIFFLAGS, unsafe.Pointer(ifr))
}

// powerOff ends the machine. The file systems have been synced by then.
func powerOff(reboot bool) {
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	unix.Reboot(how)
	// A machine that cannot be switched off: the kernel takes the end of process 1
	// for a panic, and with panic=-1 restarts, which the VMM takes for the end.
	os.Exit(1)
}
