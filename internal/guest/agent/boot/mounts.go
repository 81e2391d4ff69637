package boot

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/smolvm/smolvm/api"
	"golang.org/x/sys/unix"
)

// The disks and where they are mounted before the switch of the root.
const (
	baseDisk     = "/dev/vda"
	writableDisk = "/dev/vdb"

	baseDir  = "/base"
	rwDir    = "/rw"
	upperDir = "/rw/upper"
	workDir  = "/rw/work"
	rootDir  = "/root"
)

// mountpoint is one mount of the guest.
type mountpoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mountpoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return api.Errorf(api.Internal, "make mount point: %w", err)
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return api.Errorf(api.Internal, "mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

const quiet = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// firstMounts mounts what the rest of the boot reads.
func (b *booter) firstMounts() error {
	processLimits()
	for _, m := range []mountpoint{
		{"proc", "/proc", "proc", quiet, ""},
		{"sysfs", "/sys", "sysfs", quiet, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	var err error
	b.events, err = listen()
	return err
}

// mountRoot puts the writable disk over the base image.
func (b *booter) mountRoot() error {
	if err := (mountpoint{baseDisk, baseDir, "ext4", unix.MS_RDONLY, ""}).mount(); err != nil {
		return err
	}
	rw := mountpoint{writableDisk, rwDir, "ext4", unix.MS_NOATIME, ""}
	onDisk := exists(writableDisk)
	if !onDisk {
		rw = mountpoint{"tmpfs", rwDir, "tmpfs", unix.MS_NOATIME, "mode=0755"}
	}
	if err := rw.mount(); err != nil {
		return err
	}
	for _, d := range []string{upperDir, workDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return api.Errorf(api.Internal, "make layer: %w", err)
		}
	}
	// xino: inode numbers stay the same when a file is copied up, and one device
	// number covers the tree; find -xdev and du count on it. redirect_dir off:
	// renaming a directory of the base gives EXDEV, which programs know from
	// containers, and the upper directory alone then tells what changed. metacopy
	// off for the same reason. index off: the upper directory may meet another
	// copy of the same base.
	o := mountpoint{"overlay", rootDir, "overlay", 0, strings.Join([]string{
		"lowerdir=" + baseDir, "upperdir=" + upperDir, "workdir=" + workDir,
		"xino=on", "redirect_dir=off", "metacopy=off", "index=off",
	}, ",")}
	if err := o.mount(); err != nil {
		return err
	}
	return b.openLayers(onDisk)
}

// openLayers keeps hold of what nobody can name after the switch of the root.
func (b *booter) openLayers(onDisk bool) (err error) {
	if b.base, err = openDir(baseDir); err == nil {
		b.upper, err = openDir(upperDir)
	}
	if err == nil && onDisk {
		b.rw, err = openDir(rwDir)
	}
	if err != nil {
		return api.Errorf(api.Internal, "open the layers: %w", err)
	}
	return nil
}

func openDir(path string) (int, error) {
	return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// switchRoot makes the overlay the root of this process and all it starts. The
// initramfs stays mounted below it: the agent's own program is in it. The modules
// are loaded and only take memory.
func (b *booter) switchRoot() error {
	os.RemoveAll(modulesDir)
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		if err := os.MkdirAll(rootDir+d, 0o755); err != nil {
			return api.Errorf(api.Internal, "make mount point: %w", err)
		}
		if err := unix.Mount(d, rootDir+d, "", unix.MS_MOVE, ""); err != nil {
			return api.Errorf(api.Internal, "move %s to the new root: %w", d, err)
		}
	}
	if err := os.Chdir(rootDir); err != nil {
		return api.Errorf(api.Internal, "enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return api.Errorf(api.Internal, "switch root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return api.Errorf(api.Internal, "switch root: %w", err)
	}
	return os.Chdir("/")
}

// secondMounts mounts the rest inside the root.
func (b *booter) secondMounts() error {
	for _, m := range []mountpoint{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	// Old places of what is in /run and /dev now.
	os.MkdirAll("/run/lock", 0o755)
	os.Chmod("/run/lock", 0o1777)
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		os.Symlink(target, name)
	}
	b.cgroup = mountCgroup()
	b.bootID = hideBootID()
	return nil
}

// kernelBootID is the kernel's own. It is made when it is first read, and stays
// the same in every guest that continues from this one's memory.
const kernelBootID = "/proc/sys/kernel/random/boot_id"

// hideBootID mounts an empty file over the kernel's boot id, without reading
// that, and returns its descriptor for the agent to fill. The file has no name
// that others could reach.
func hideBootID() int {
	const name = "/run/.boot_id"
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return 0
	}
	err = unix.Mount(name, kernelBootID, "", unix.MS_BIND, "")
	os.Remove(name)
	if err != nil {
		unix.Close(fd)
		return 0
	}
	return fd
}

const (
	cgroupRoot = "/sys/fs/cgroup"
	cgroupDir  = cgroupRoot + "/smolvm"
)

// mountCgroup mounts the control groups and makes the one that all processes of
// the host's are in. It returns nothing where the kernel has none: then process
// groups are what is killed.
func mountCgroup() string {
	m := mountpoint{"cgroup2", cgroupRoot, "cgroup2", quiet, "nsdelegate,memory_recursiveprot"}
	if m.mount() != nil || os.MkdirAll(cgroupDir, 0o755) != nil {
		return ""
	}
	for _, dir := range []string{cgroupRoot, cgroupDir} {
		// One at a time: a controller that is missing must not keep out the others.
		for _, c := range []string{"+memory", "+pids"} {
			os.WriteFile(dir+"/cgroup.subtree_control", []byte(c), 0)
		}
	}
	// With its own share of the processors the agent answers, and kills, also when
	// the host's processes are thousands: they are one group beside it. Only here,
	// not in the groups below: each level costs every switch between processes.
	os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte("+cpu"), 0)
	limitAll()
	return cgroupDir
}

const (
	// reserveMax KiB, or reserveShare of a small memory, are kept for the agent and
	// the kernel: a process that takes all memory must be killed while the agent
	// can still act. With half as much the kernel ran out first.
	reserveMax   = 64 << 10
	reserveShare = 8
	// pidsShare of the possible threads, in percent, is for the host's processes.
	// Ending that many takes the better part of a minute under emulation.
	pidsShare = 50
)

// limitAll bounds what all processes of the host's take together.
func limitAll() {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		kib := info.Totalram * uint64(info.Unit) >> 10
		kib -= min(kib/reserveShare, reserveMax)
		os.WriteFile(cgroupDir+"/memory.max", strconv.AppendUint(nil, kib<<10, 10), 0)
	}
	threads, err := strconv.Atoi(firstLine("/proc/sys/kernel/threads-max", ""))
	if err == nil {
		os.WriteFile(cgroupDir+"/pids.max", strconv.AppendInt(nil, int64(threads)*pidsShare/100, 10), 0)
	}
}

// growFilesystem grows a mounted ext4 to the size of its device.
func growFilesystem(dir int, device string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(dir, &fs); err != nil {
		return err
	}
	d, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	var size uint64
	if err := ioctl(d, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return err
	}
	blocks := size / uint64(fs.Bsize)
	// Never asks for less than there is: the call would refuse.
	if err := ioctl(dir, ext4Resize, unsafe.Pointer(&blocks)); err != nil && err != unix.EINVAL {
		return err
	}
	return nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const ext4Resize = 0x40086610

func ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
