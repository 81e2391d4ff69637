package point

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// eachData calls f for each piece of a file that may hold data, at multiples of
// pieceSize and at most that long.
func eachData(file *os.File, f func(off, n int64) error) error {
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(file.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole to the end
		}
		if err != nil {
			return err
		}
		off = data / pieceSize * pieceSize
		n := min(pieceSize, size-off)
		if err := f(off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}
