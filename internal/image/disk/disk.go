// Package disk makes the writable disk of a sandbox.
//
//	err := disk.Create(ctx, path, 10*1024)
//
// The disk is a sparse raw file with an empty ext4 file system: it takes space
// on the host only as the guest writes.
package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// Limits of a disk, in MiB.
const (
	MinMiB = 16              // below it ext4 has no room for its journal
	MaxMiB = 8 * 1024 * 1024 // 8 TiB, well below what raw files and 32-bit block numbers allow
)

// journalMiB is the size of the journal. The journal is why a sandbox whose
// QEMU was killed mounts again at once, with all that was synced and without a
// check: a guest has no other power cut protection. 16 MiB is enough for the
// bursts of one disk; small disks get less.
const journalMiB = 16

// Create makes the disk file. The path must not exist; after an error it does
// not. Class Invalid for a bad size, Exhausted where the host's file system is
// full, Unavailable with code missing_dependency where mkfs.ext4 is missing.
func Create(ctx context.Context, path string, sizeMiB int) error {
	if sizeMiB < MinMiB || sizeMiB > MaxMiB {
		return api.Errorf(api.Invalid, "make disk: size %d MiB is not between %d and %d", sizeMiB, MinMiB, MaxMiB)
	}
	tool, err := mkfs()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return api.Errorf(api.Unavailable, "make disk: %w", err)
	}
	var u undo.Stack
	defer u.Run()
	u.Add(func() { os.Remove(path) })
	if err := errors.Join(f.Truncate(int64(sizeMiB)<<20), f.Close()); err != nil {
		return api.Errorf(api.Exhausted, "make disk: %w", err)
	}
	if err := format(ctx, tool, path, sizeMiB); err != nil {
		class := api.Unavailable
		if strings.Contains(err.Error(), "No space left") {
			class = api.Exhausted
		}
		return api.Errorf(class, "make disk: %w", err)
	}
	u.Success()
	return nil
}

// mkfs finds mkfs.ext4, which Debian keeps where a plain user's PATH does not look.
func mkfs() (string, error) {
	for _, name := range []string{"mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", api.Errorf(api.Unavailable, "make disk: mkfs.ext4 is not installed").
		WithCode("missing_dependency").WithRecovery("Install e2fsprogs, or run smolvm setup.")
}

// Extended options that say that the file reads as zeros. With the first the
// guest's kernel does not spend its first minutes, and the host's disk, on
// zeroing inode tables. Before e2fsprogs 1.47 it does not exist: then mkfs
// zeroes the tables itself, as holes.
const (
	prezeroed = "assume_storage_prezeroed=1"
	zeroNow   = "lazy_itable_init=0,lazy_journal_init=0"
)

func format(ctx context.Context, tool, path string, sizeMiB int) error {
	out, err := runMkfs(ctx, tool, args(path, sizeMiB, prezeroed))
	if err != nil && ctx.Err() == nil && strings.Contains(out, "assume_storage_prezeroed") {
		out, err = runMkfs(ctx, tool, args(path, sizeMiB, zeroNow))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(tool), errors.Join(ctx.Err(), err), out)
	}
	return nil
}

// features are what ext4 is to have, said in full: the host's mke2fs.conf must
// not decide what guests get. Each is known to every kernel since 4.x.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit," +
	"flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// args returns the arguments of mkfs.ext4.
func args(path string, sizeMiB int, extended string) []string {
	journal := min(journalMiB, max(sizeMiB/16, 4)) // 4 MiB is ext4's least
	return []string{
		"-q", "-F", "-O", features,
		"-I", "256", // room for the extended attributes that overlayfs keeps on each file
		"-i", "16384", // bytes of disk for each inode
		"-b", "4096", // also where a small disk would get 1 KiB: the guest's page size is fastest
		"-m", "0", // no blocks kept back for root: root is the guest's everyday user
		"-J", "size=" + strconv.Itoa(journal),
		"-e", "remount-ro", // a damaged disk must not be written further
		"-E", extended + ",nodiscard,root_owner=0:0",
		path,
	}
}

// maxOutput bounds what of mkfs's complaint goes into an error.
const maxOutput = 1 << 10

func runMkfs(ctx context.Context, tool string, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MKE2FS_CONFIG=/dev/null") // see features
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	return text[:min(len(text), maxOutput)], err
}
