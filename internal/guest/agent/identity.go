package agent

import (
	"strings"
	"sync"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

// identity gives the guest its names.
func (r *renewal) identity() {
	a := r.a
	if name := r.s.Hostname; name != "" {
		r.try("set host name", unix.Sethostname([]byte(name)))
		r.try("name the host", a.rewrite("/etc/hostname", always(name+"\n")))
		r.try("name the host", a.rewrite("/etc/hosts", func(old string) string { return hostsFor(name, old) }))
	}
	if id := r.s.MachineID; id != "" {
		r.try("set machine id", a.rewrite("/etc/machine-id", always(id+"\n")))
		if a.regular(dbusID) {
			r.try("set machine id", a.rewrite(dbusID, always(id+"\n")))
		}
	}
	r.lap("names")
	r.try("set boot id", a.bootID.renew(r.s.Copy))
	if r.s.Copy {
		r.try("make SSH host keys", a.renewHostKeys())
	}
	r.lap("boot id+keys")
}

// dbusID is mostly a link to /etc/machine-id, or not there.
const dbusID = "/var/lib/dbus/machine-id"

// ownAddress is the address under which Debian's hosts file names the machine.
const ownAddress = "127.0.1.1\t"

// hostsFor returns the hosts file with which a guest finds itself by its name.
func hostsFor(name, old string) string {
	var b strings.Builder
	b.Grow(len(old) + len(name) + 128)
	if old == "" {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	for line := range strings.Lines(old) {
		if !strings.HasPrefix(line, ownAddress) {
			b.WriteString(strings.TrimRight(line, "\n"))
			b.WriteByte('\n')
		}
	}
	b.WriteString(ownAddress)
	b.WriteString(name)
	b.WriteByte('\n')
	return b.String()
}

func always(text string) func(string) string { return func(string) string { return text } }

// maxRewrite bounds a file that is rewritten, in bytes.
const maxRewrite = 64 << 10

// rewrite gives a small file a new text, if it is new: opening a file for writing
// would copy it up. It writes over the old text: ext4 sends a file that is cut to
// nothing and written again to the disk at once. To cut a
// file costs a tenth of a whole Setup, so a template should have the shortest of
// names.
func (a *Agent) rewrite(path string, text func(old string) string) error {
	path = a.root + path
	old, err := readSmall(path)
	if err != nil && err != unix.ENOENT {
		return failed("read", path, err)
	}
	now := text(old)
	if now == old {
		return nil
	}
	err = overwrite(path, now, len(now) < len(old))
	if err == unix.EROFS {
		return nil // a guest that keeps nothing has to name itself at every boot
	}
	if err != nil {
		return failed("write", path, err)
	}
	return nil
}

// Files of the guest may be anything, also a pipe that nobody writes to.
const carefully = unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

func readSmall(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|carefully, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 4<<10)
	n := 0
	for {
		m, err := unix.Read(fd, b[n:])
		if err != nil {
			return "", err
		}
		// A short read of a file of this kind is its last.
		if n += m; m == 0 || n < len(b) {
			return string(b[:n]), nil
		}
		if n >= maxRewrite {
			return "", unix.EFBIG
		}
		b = append(b, make([]byte, len(b))...)
	}
}

func overwrite(path, text string, shorter bool) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|carefully, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, []byte(text))
	if err == nil && n < len(text) {
		err = unix.ENOSPC
	}
	if err == nil && shorter {
		err = unix.Ftruncate(fd, int64(n))
	}
	return err
}

func (a *Agent) regular(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(a.root+path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// bootID is the boot id that the guest shows in the place of the kernel's, which
// never changes. The file is mounted over the kernel's once, at boot, so that
// nothing stacks up.
type bootID struct {
	fd int // of the file; 0: the kernel's id shows

	mu sync.Mutex
	id string // empty before the first
}

// renew makes a boot id, where there is none or again says so.
func (b *bootID) renew(again bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd == 0 || b.id != "" && !again {
		return nil
	}
	var r [16]byte
	if n, err := unix.Getrandom(r[:], 0); err != nil || n != len(r) {
		return api.Errorf(api.Internal, "read random bytes: %w", err)
	}
	b.id = uuid(r)
	_, err := unix.Pwrite(b.fd, []byte(b.id+"\n"), 0)
	return err
}

// get returns the boot id.
func (b *bootID) get() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd == 0 {
		return readLine("/proc/sys/kernel/random/boot_id")
	}
	return b.id
}

// uuid writes random bytes as a UUID of version 4.
func uuid(r [16]byte) string {
	r[6] = r[6]&0x0f | 0x40
	r[8] = r[8]&0x3f | 0x80
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 36)
	for i, c := range r {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return string(b)
}
