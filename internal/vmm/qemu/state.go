package qemu

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// A file of device state is QEMU's own stream, which knows its end, and after it
// a footer of our own: QEMU loads what it is given, and would run a machine whose
// registers were changed.
//
//	footerMark  what it is
//	32 bytes    SHA-256 of the fingerprint of the machine it belongs to
//	32 bytes    SHA-256 of all before
const (
	footerMark = "smolvm devices 1"
	footerSize = len(footerMark) + 2*sha256.Size

	// maxState bounds a device state, in bytes. One of a machine with all disks
	// and 64 CPUs has 1 MiB.
	maxState = 64 << 20
)

// seal adds the footer to the file that QEMU has written.
func seal(path, fingerprint string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	state, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return err
	}
	if len(state) == 0 || len(state) > maxState {
		return fmt.Errorf("qemu wrote %d bytes of state", len(state))
	}
	whose := sha256.Sum256([]byte(fingerprint))
	footer := append([]byte(footerMark), whose[:]...)
	sum := sha256.Sum256(append(state, footer...))
	if _, err := f.Write(append(footer, sum[:]...)); err != nil {
		return err
	}
	return f.Close()
}

// openState opens a file of device state, for QEMU to read, if it is whole and
// of a machine with the fingerprint.
func openState(path, fingerprint string) (_ *os.File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	all, err := io.ReadAll(io.NewSectionReader(f, 0, maxState+int64(footerSize)+1))
	if err != nil {
		return nil, err
	}
	return f, checkState(all, fingerprint)
}

func checkState(all []byte, fingerprint string) error {
	n := len(all) - footerSize
	if n <= 0 || n > maxState || !bytes.HasPrefix(all[n:], []byte(footerMark)) {
		return badState("it is truncated or was never one")
	}
	body, sum := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return badState("it is damaged")
	}
	whose := sha256.Sum256([]byte(fingerprint))
	if !bytes.HasSuffix(body, whose[:]) {
		return badState("it is of another machine or another QEMU")
	}
	return nil
}

func badState(why string) *api.Error {
	return api.Errorf(api.Invalid, "load the device state: %s", why).WithCode(vmm.CodeState)
}
