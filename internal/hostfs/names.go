package hostfs

import "golang.org/x/sys/unix"

// mknod makes a regular file; nothing else.
func (r *request) mknod() unix.Errno {
	mode := r.in.u32()
	r.in.skip(12)
	if mode&unix.S_IFMT != unix.S_IFREG && mode&unix.S_IFMT != 0 {
		return unix.EPERM
	}
	return r.make(func(dir int, name string) unix.Errno {
		f, err := makeFile(dir, name, mode, unix.O_WRONLY)
		if err == 0 {
			f.Close()
		}
		return err
	})
}

func (r *request) mkdir() unix.Errno {
	mode := r.in.u32()
	r.in.skip(4)
	return r.make(func(dir int, name string) unix.Errno {
		if err := unix.Mkdirat(dir, name, 0o700); err != nil {
			return errno(err)
		}
		fd, _, _, err := r.s.child(dir, name)
		if err != 0 {
			return err
		}
		defer unix.Close(fd)
		return errno(unix.Chmod(procPath(fd), mode&shownMode(unix.S_IFDIR)))
	})
}

// symlink makes a symbolic link. Where it leads to is the guest's affair: nothing
// here ever follows it.
func (r *request) symlink() unix.Errno {
	name, target := r.in.name(), r.in.text()
	if target == "" || len(target) > maxPath {
		return unix.EINVAL
	}
	return r.makeAt(name, func(dir int, name string) unix.Errno {
		return errno(unix.Symlinkat(target, dir, name))
	})
}

func (r *request) link() unix.Errno {
	old, err := r.s.nodes.get(r.in.u64())
	if err != 0 {
		return err
	}
	if old.kind != unix.S_IFREG {
		return unix.EPERM
	}
	return r.make(func(dir int, name string) unix.Errno {
		fd, _, err := r.s.locate(old)
		if err != 0 {
			return err
		}
		defer unix.Close(fd)
		return errno(unix.Linkat(unix.AT_FDCWD, procPath(fd), dir, name, unix.AT_SYMLINK_FOLLOW))
	})
}

// make makes a file of the name that the request ends with.
func (r *request) make(do func(dir int, name string) unix.Errno) unix.Errno {
	return r.makeAt(r.in.name(), do)
}

func (r *request) makeAt(name string, do func(dir int, name string) unix.Errno) unix.Errno {
	if r.in.bad {
		return unix.EINVAL
	}
	dir, fd, err := r.directory(r.h.node)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	life := r.s.watch.begin(dir, fd)
	if err := do(fd, name); err != 0 {
		return err
	}
	return r.found(dir, fd, name, life)
}

// remove removes a name, of a special file too.
func (r *request) remove(flags int) unix.Errno {
	name := r.in.name()
	if r.in.bad {
		return unix.EINVAL
	}
	dir, fd, err := r.directory(r.h.node)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	if err := r.s.touchable(fd, name); err != 0 {
		return err
	}
	if err := unix.Unlinkat(fd, name, flags); err != nil {
		return errno(err)
	}
	r.s.nodes.removed(dir, name)
	return 0
}

// touchable refuses names of what is hidden from guests, and of what is above it.
func (s *Server) touchable(dir int, name string) unix.Errno {
	r := root{fd: dir}
	fd, err := r.open(name)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	id, _, err := stat(fd)
	if err == 0 && s.root.holds(id) {
		return unix.EACCES
	}
	return err
}

func (r *request) rename(target uint64, flags uint32) unix.Errno {
	name, as := r.in.name(), r.in.name()
	if r.in.bad || flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	from, fd, err := r.directory(r.h.node)
	if err != 0 {
		return err
	}
	defer unix.Close(fd)
	to, toFD, err := r.directory(target)
	if err != 0 {
		return err
	}
	defer unix.Close(toFD)
	if err := r.s.touchable(fd, name); err != 0 {
		return err
	}
	if err := r.s.touchable(toFD, as); err != 0 && err != unix.ENOENT {
		return err
	}
	if err := unix.Renameat2(fd, name, toFD, as, uint(flags)); err != nil {
		return errno(err)
	}
	r.s.nodes.renamed(from, name, to, as, flags&unix.RENAME_EXCHANGE != 0)
	return 0
}
