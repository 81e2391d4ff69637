package seal

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
)

// Stamp identifies a file and its last write, without its content. A file whose
// Stamp holds is the one whose digest was computed when the Stamp was made, so it
// need not be hashed again. Hard links to the file have the same Stamp. The zero
// Stamp holds for no file.
//
// Make the Stamp before the digest, so that a write meanwhile shows, and of a file
// that nobody maps writable any more: the kernel notes only the first write to a
// mapped page.
type Stamp struct {
	// Boot is the host's boot. After a power cut a file may hold less than was
	// written and still look the same, so with each boot all is hashed again.
	Boot  string `json:"boot"`
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	MTime int64  `json:"mtime"` // nanoseconds
	Size  int64  `json:"size"`
}

// bootFile holds an identifier that the kernel chooses at each boot.
const bootFile = "/proc/sys/kernel/random/boot_id"

// StampOf makes the Stamp of a regular file. Class Unavailable where it cannot.
func StampOf(path string) (Stamp, error) {
	s, err := stampOf(path)
	if err != nil {
		return Stamp{}, api.Errorf(api.Unavailable, "stamp %q: %w", path, err)
	}
	return s, nil
}

func stampOf(path string) (Stamp, error) {
	boot, err := os.ReadFile(bootFile)
	if err != nil {
		return Stamp{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Stamp{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Stamp{}, fmt.Errorf("it is not a regular file")
	}
	return Stamp{
		Boot:  strings.TrimSpace(string(boot)),
		Dev:   uint64(st.Dev),
		Inode: st.Ino,
		MTime: st.Mtim.Nano(),
		Size:  st.Size,
	}, nil
}

// Holds reports whether the file at path is the stamped one and was not written
// since.
func (s Stamp) Holds(path string) bool {
	now, err := stampOf(path)
	return err == nil && s == now
}
