package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Fingerprint identifies what a saved machine depends on. It is the same on two
// hosts of one kind that have the same QEMU.
func (d *Driver) Fingerprint(c vmm.Config) (string, error) {
	binary, err := d.binary()
	if err != nil {
		return "", err
	}
	accel, err := resolve(c.Accel)
	if err != nil {
		return "", err
	}
	return fingerprint(binary, plan{Config: c, accel: accel})
}

func fingerprint(binary string, p plan) (string, error) {
	// The program by what a package's upgrade changes, since to read it takes longer
	// than a restore. Not its inode: a copy on another host is the same program.
	fi, err := os.Stat(binary)
	if err != nil {
		return "", api.Errorf(api.Unavailable, "find QEMU: %w", err)
	}
	processor, err := hostProcessor(cpuInfo)
	if err != nil {
		return "", api.Errorf(api.Unavailable, "look at the processor: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "program %d %d\naccel %s\nprocessor %s\n", fi.Size(), fi.ModTime().UnixNano(), p.accel, processor)
	for _, a := range p.shape() {
		fmt.Fprintf(h, "%q\n", a)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// shape returns those arguments that the guest can see something of.
func (p plan) shape() []string {
	p.Restore = nil
	p.Memory = &vmm.Memory{}
	args := p.args()
	var shape []string
	for i, a := range args[:len(args)-1] {
		if slices.Contains([]string{"-machine", "-cpu", "-smp", "-m", "-global", "-device"}, a) {
			shape = append(shape, a, args[i+1])
		}
	}
	return shape
}

// hostProcessor describes the processor by the lines of cpuInfo that tell kinds
// apart. KVM's guest sees it. TCG's does not, but its time stamp counter is the
// host's, and how fast that runs the guest has learnt at its boot.
func hostProcessor(file string) (string, error) {
	info, err := firstProcessor(file)
	if err != nil {
		return "", err
	}
	var out []string
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "vendor_id", "cpu family", "model", "model name", "stepping", "flags":
			out = append(out, strings.TrimSpace(value))
		}
	}
	return strings.Join(out, "; "), nil
}

// firstProcessor reads the description of one processor: all are alike, and on a
// large host the file takes milliseconds to read.
func firstProcessor(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 16<<10)
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return "", err
	}
	first, _, _ := strings.Cut(string(b[:n]), "\n\n")
	return first, nil
}
