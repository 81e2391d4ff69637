package rootfs

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
)

// Sizes in the ext4 files that the writer makes.
const (
	blockSize           = 4096
	groupDescriptorSize = 32
	inodeBitmapAt       = 4 // in a group's descriptor
)

// padInodeBitmaps sets the bits behind the last inode of each group, which the
// writer leaves clear. The kernel does not look at them, but e2fsck calls a file
// system with clear ones damaged, and ours shall stand every check.
func padInodeBitmaps(f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sb, err := tar2ext4.ReadExt4SuperBlockReadSeeker(f)
	if err != nil {
		return err
	}
	groups := (sb.InodesCount + sb.InodesPerGroup - 1) / sb.InodesPerGroup
	table := make([]byte, groups*groupDescriptorSize)
	if _, err := f.ReadAt(table, blockSize); err != nil {
		return err
	}
	used := sb.InodesPerGroup / 8 // a whole number, as the inode table fills whole blocks
	padding := bytes.Repeat([]byte{0xff}, int(blockSize-used))
	for g := range groups {
		bitmap := binary.LittleEndian.Uint32(table[g*groupDescriptorSize+inodeBitmapAt:])
		if _, err := f.WriteAt(padding, int64(bitmap)*blockSize+int64(used)); err != nil {
			return err
		}
	}
	return nil
}
