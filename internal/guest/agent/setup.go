package agent

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// setup serves OpSetup.
func (a *Agent) setup(s guest.Setup) error {
	if s.TimeNS > 0 {
		ts := unix.NsecToTimespec(s.TimeNS)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			return api.Errorf(api.Internal, "set the guest's clock: %w", err)
		}
	}
	if len(s.Seed) > 0 {
		if err := stir(s.Seed); err != nil {
			return api.Errorf(api.Internal, "stir the guest's random pool: %w", err)
		}
	}
	if s.Hostname != "" {
		if err := a.setHostname(s.Hostname); err != nil {
			return err
		}
	}
	if s.MachineID != "" {
		if err := a.setMachineID(s.MachineID); err != nil {
			return err
		}
	}
	if s.GrowDisk && a.o.GrowDisk != nil {
		if err := a.o.GrowDisk(); err != nil {
			return api.Errorf(classOf(err), "grow the guest's file system: %w", err)
		}
	}
	return nil
}

// The calls of random(4), _IOW('R', 3, int[2]) and _IO('R', 7).
const (
	rndAddEntropy = 0x40085203
	rndReseed     = 0x5207
	maxSeed       = 512 // bytes that one call takes
)

// stir adds a secret of the host to the random pool and credits it: a guest
// without a history would hand out the same numbers as its clones.
func stir(seed []byte) error {
	fd, err := unix.Open("/dev/random", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var e struct {
		bits, size int32
		data       [maxSeed]byte
	}
	n := copy(e.data[:], seed)
	e.bits, e.size = int32(8*n), int32(n)
	if err := ioctl(fd, rndAddEntropy, uintptr(unsafe.Pointer(&e))); err != nil {
		return err
	}
	return ioctl(fd, rndReseed, 0)
}

// maxHostname is the kernel's bound, in bytes.
const maxHostname = 64

func (a *Agent) setHostname(name string) error {
	if len(name) > maxHostname || strings.ContainsAny(name, "/ \t\n\x00") {
		return api.Errorf(api.Invalid, "set host name %q: not a host name", name)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return failed("set host name", name, err)
	}
	if err := a.writeEtc("hostname", name+"\n"); err != nil {
		return err
	}
	return a.nameHosts(name)
}

// ownAddress is the address under which Debian's hosts file names the machine.
const ownAddress = "127.0.1.1\t"

// nameHosts has the guest find itself by its name.
func (a *Agent) nameHosts(name string) error {
	old, err := os.ReadFile(a.etc("hosts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("read", "/etc/hosts", err)
	}
	var b strings.Builder
	if len(old) == 0 {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	for line := range strings.Lines(string(old)) {
		if !strings.HasPrefix(line, ownAddress) {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	b.WriteString(ownAddress + name + "\n")
	return a.writeEtc("hosts", b.String())
}

func (a *Agent) setMachineID(id string) error {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return api.Errorf(api.Invalid, "set machine id %q: it has not 32 hex digits", id)
	}
	return a.writeEtc("machine-id", id+"\n")
}

func (a *Agent) etc(name string) string { return a.root + "/etc/" + name }

// writeEtc writes a file unless it says the same already: on the overlay that
// would copy it up.
func (a *Agent) writeEtc(name, text string) error {
	path := a.etc(name)
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return nil
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil && !errors.Is(err, syscall.EROFS) {
		return failed("write", "/etc/"+name, err)
	}
	return nil
}
