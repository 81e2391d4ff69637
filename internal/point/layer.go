package point

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// Places in the header of a qcow2 file; see docs/interop/qcow2.txt of QEMU.
const (
	qcowMagic    = 0x514649fb
	qcowBacking  = 8  // place of the name of the file below; 0: none
	qcowFeatures = 72 // those that who does not know them must not open, in 8 bytes
	qcowHeader   = 104
)

// checkLayer refuses a layer of a disk that leads its VMM to another file: QEMU
// opens the data file that a qcow2 header names, whatever file of the host it is.
// Our own layers have none of these features. What is no qcow2 file QEMU refuses.
func checkLayer(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var h [qcowHeader]byte
	if _, err := f.ReadAt(h[:], 0); err != nil && err != io.EOF {
		return err
	}
	be := binary.BigEndian
	if be.Uint32(h[:]) != qcowMagic {
		return nil
	}
	if be.Uint32(h[4:]) != 3 || be.Uint64(h[qcowBacking:]) != 0 || be.Uint64(h[qcowFeatures:]) != 0 {
		return errors.New("it is a layer that no smolvm has made")
	}
	return nil
}
