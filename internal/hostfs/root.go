package hostfs

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// root is the shared folder. All paths below it are resolved by the kernel in one
// step, beneath the folder and through no link: neither a symbolic link nor a rename
// at the wrong moment leads out.
type root struct {
	fd     int
	hidden []identity
	above  []identity // the folders on the way to what is hidden
}

// identity is what tells a file from all others of its host for as long as it
// exists, and, where the file system knows when it was made, ever after.
type identity struct {
	dev, ino uint64
	born     unix.StatxTimestamp
}

// resolve is how far a path may lead. NO_XDEV: what is mounted below the folder,
// /proc say, was not shared with it.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openTries is how often a resolution is repeated that a rename on the host disturbed.
const openTries = 16

// open opens what is at path, whatever it is, to name it and for nothing else: no
// pipe is opened, no device is touched.
func (r *root) open(path string) (int, unix.Errno) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	for range openTries {
		fd, err := unix.Openat2(r.fd, path, &how)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err == unix.EXDEV || err == unix.ELOOP {
			err = unix.EACCES // a mount, or a link that was a directory
		}
		return fd, errno(err)
	}
	return -1, unix.EAGAIN
}

// statMask is what is asked of the host about a file.
const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// stat describes an open file.
func stat(fd int) (identity, attr, unix.Errno) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, &st)
	if err != nil {
		return identity{}, attr{}, errno(err)
	}
	id := identity{dev: uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.born = st.Btime
	}
	return id, attr{
		ino: st.Ino, size: st.Size, blocks: st.Blocks,
		atime: st.Atime, mtime: st.Mtime, ctime: st.Ctime,
		mode: uint32(st.Mode) & (unix.S_IFMT | shownMode(uint32(st.Mode))), nlink: st.Nlink, blksize: st.Blksize,
	}, 0
}

// shownMode are the bits of a mode that pass, either way: those of set user and group
// id never, and sticky for directories, where it means something.
func shownMode(mode uint32) uint32 {
	if mode&unix.S_IFMT == unix.S_IFDIR {
		return 0o1777
	}
	return 0o777
}

// ordinary reports whether a guest may see a file: not pipes, sockets and devices.
func ordinary(mode uint32) bool {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
		return true
	}
	return false
}

func (r *root) hides(id identity) bool { return among(r.hidden, id) }

// holds reports whether a file must keep its name.
func (r *root) holds(id identity) bool { return r.hides(id) || among(r.above, id) }

func among(list []identity, id identity) bool {
	return slices.ContainsFunc(list, func(h identity) bool { return h.dev == id.dev && h.ino == id.ino })
}

// admit describes an open file that a guest may see.
func (r *root) admit(fd int) (identity, attr, unix.Errno) {
	id, a, err := stat(fd)
	if err != 0 {
		return id, a, err
	}
	if !ordinary(a.mode) || r.hides(id) {
		return id, a, unix.EACCES
	}
	return id, a, 0
}

// reopen opens a regular file or a directory again, now for its content. It is the
// same file, whatever its name leads to by now.
func reopen(fd int, flags int) (int, unix.Errno) {
	for {
		f, err := unix.Open(procPath(fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return f, errno(err)
		}
	}
}

// procPath is a way to what a descriptor stands for.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// errno is the number of an error of the system.
func errno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}
