package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"

	"github.com/smolvm/smolvm/internal/image/decompress"
)

// Bounds of what is read as a kernel: far above any real one.
const (
	maxImage   = 256 << 20
	maxVmlinux = 1 << 30
)

// Offsets in an x86 boot image, from the kernel's boot protocol.
const (
	setupSectsAt    = 0x1f1
	setupMagicAt    = 0x202
	setupVersionAt  = 0x206
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c
	headerEnd       = 0x250
	sector          = 512
	// payloadVersion is the first version of the protocol that tells where the
	// payload is.
	payloadVersion = 0x0208
	// defaultSetupSects is what a zero in the sector count means.
	defaultSetupSects = 4
)

// lz4LegacyMagic begins the frame format that the kernel's build uses, which is
// older than the one of the lz4 tool.
var lz4LegacyMagic = []byte{0x02, 0x21, 0x4c, 0x18}

// extractVmlinux returns the ELF kernel in a boot image; an image that is an
// ELF file already is returned as it is.
func extractVmlinux(image []byte) ([]byte, error) {
	if bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		return image, checkELF(image)
	}
	payload, err := bzPayload(image)
	if err != nil {
		return nil, err
	}
	r, err := openPayload(payload)
	if err != nil {
		return nil, err
	}
	// The payload's last four bytes are its size when unpacked; for a stream
	// with an end mark they are trailing bytes that the reader must not mind.
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if size == 0 || size > maxVmlinux {
		return nil, fmt.Errorf("unpacked size %d is out of range", size)
	}
	vmlinux := make([]byte, size)
	if _, err := io.ReadFull(r, vmlinux); err != nil {
		return nil, fmt.Errorf("unpack payload: %w", err)
	}
	return vmlinux, checkELF(vmlinux)
}

// bzPayload finds the compressed kernel in an x86 boot image.
func bzPayload(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[setupMagicAt:setupMagicAt+4]) != "HdrS" {
		return nil, errors.New("neither an ELF file nor an x86 boot image")
	}
	if v := binary.LittleEndian.Uint16(image[setupVersionAt:]); v < payloadVersion {
		return nil, fmt.Errorf("boot protocol %#x is older than %#x", v, payloadVersion)
	}
	sects := int64(image[setupSectsAt])
	if sects == 0 {
		sects = defaultSetupSects
	}
	start := (sects+1)*sector + int64(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	length := int64(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if length < 8 || start+length > int64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d is outside of the image", length, start)
	}
	return image[start : start+length], nil
}

func openPayload(p []byte) (io.Reader, error) {
	if bytes.HasPrefix(p, lz4LegacyMagic) {
		return lz4.NewReader(bytes.NewReader(p)), nil
	}
	r, format, err := decompress.NewReader(bytes.NewReader(p))
	if err == nil && format == decompress.None {
		err = fmt.Errorf("payload has an unknown compression (% x)", p[:4])
	}
	return r, err
}

// checkELF reports why a kernel cannot be booted directly, if so.
func checkELF(b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_NOTE || f.Machine != elf.EM_X86_64 {
			return nil
		}
	}
	return errors.New("kernel has no note segment, so no PVH entry: QEMU cannot boot it directly")
}
