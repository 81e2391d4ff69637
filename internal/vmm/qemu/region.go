package qemu

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/vmm"
)

// findRegion finds where a process maps a file as a whole.
func findRegion(pid int, path string) (vmm.Region, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return vmm.Region{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return vmm.Region{}, err
	}
	r, err := parseMaps(string(maps), path, st.Dev, st.Ino)
	r.PID = pid
	if err == nil && r.Size != st.Size {
		err = fmt.Errorf("%d bytes of guest memory are mapped, not %d", r.Size, st.Size)
	}
	return r, err
}

// parseMaps finds the mappings of a file in the text of /proc/PID/maps. There may
// be several, next to each other: the kernel splits them as it likes. Some file
// systems, such as btrfs, tell another device there than stat(2) does: then the
// inode and the path have to do.
func parseMaps(maps, path string, dev, ino uint64) (vmm.Region, error) {
	var r vmm.Region
	for line := range strings.Lines(maps) {
		var start, end, offset, major, minor, inode uint64
		var perms string
		if _, err := fmt.Sscanf(line, "%x-%x %s %x %x:%x %d", &start, &end, &perms, &offset, &major, &minor, &inode); err != nil {
			return r, fmt.Errorf("line %q of its maps: %w", line, err)
		}
		same := unix.Mkdev(uint32(major), uint32(minor)) == dev || strings.HasSuffix(strings.TrimSpace(line), " "+path)
		if inode != ino || !same {
			continue
		}
		if r.Size == 0 {
			r.Addr = start
		}
		if end <= start || offset != uint64(r.Size) || start != r.Addr+offset {
			return r, errors.New("guest memory is not mapped in one piece")
		}
		r.Size += int64(end - start)
	}
	return r, nil
}
