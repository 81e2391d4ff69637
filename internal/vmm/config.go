package vmm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// Validate returns an error of class Invalid that says what is wrong with c, and
// nil where nothing is. It looks at the files that c names. Drivers call it
// before anything else.
func (c Config) Validate() error {
	for _, check := range []func() error{
		c.validName, c.validSizes, c.validArgs, c.validDir, c.validBoot, c.validMemory, c.validDisks, c.validNetwork,
	} {
		if err := check(); err != nil {
			return api.Errorf(api.Invalid, "start machine %q: %w", c.Name, err)
		}
	}
	return nil
}

func (c Config) validName() error {
	if c.Name == "" || len(c.Name) > MaxName {
		return fmt.Errorf("the name must have 1 to %d bytes, not %d", MaxName, len(c.Name))
	}
	if !printable(c.Name) {
		return fmt.Errorf("the name must be printable ASCII")
	}
	return nil
}

func (c Config) validSizes() error {
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		return fmt.Errorf("CPUs must be 1 to %d, not %d", MaxCPUs, c.CPUs)
	}
	if c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > MaxMemoryMiB {
		return fmt.Errorf("memory must be %d to %d MiB, not %d", MinMemoryMiB, MaxMemoryMiB, c.MemoryMiB)
	}
	if _, err := api.ParseAccel(string(c.Accel)); err != nil {
		return err
	}
	return nil
}

func (c Config) validArgs() error {
	if len(c.Args) > MaxArgs {
		return fmt.Errorf("kernel arguments have %d bytes, the most is %d", len(c.Args), MaxArgs)
	}
	if !printable(c.Args) {
		return fmt.Errorf("kernel arguments must be printable ASCII")
	}
	return nil
}

func (c Config) validDir() error {
	fi, err := os.Stat(c.Dir)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("directory %s is none", c.Dir)
	}
	return nil
}

func (c Config) validBoot() error {
	if c.Restore != nil {
		return regular("device state", c.Restore.Devices)
	}
	if err := regular("kernel", c.Kernel); err != nil {
		return err
	}
	if err := regular("initrd", c.Initrd); err != nil {
		return err
	}
	magic := make([]byte, 4)
	f, err := os.Open(c.Kernel)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	defer f.Close()
	// A VMM takes other formats too, and says so much later and less clearly.
	if _, err := io.ReadFull(f, magic); err != nil || !bytes.Equal(magic, []byte("\x7fELF")) {
		return fmt.Errorf("kernel %s is no ELF file", c.Kernel)
	}
	return nil
}

func (c Config) validMemory() error {
	if c.Memory == nil {
		if c.Restore != nil {
			return fmt.Errorf("a machine to be continued needs the file of its memory")
		}
		return nil
	}
	if c.Memory.Shared && c.Restore != nil {
		return fmt.Errorf("a machine to be continued must not write to the file of its memory")
	}
	if err := regular("memory", c.Memory.Path); err != nil {
		return err
	}
	fi, err := os.Stat(c.Memory.Path)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	if want := int64(c.MemoryMiB) << 20; fi.Size() != want {
		return fmt.Errorf("the file of the memory has %d bytes, not %d", fi.Size(), want)
	}
	return nil
}

func (c Config) validDisks() error {
	if len(c.Disks) > MaxDisks {
		return fmt.Errorf("%d disks, the most is %d", len(c.Disks), MaxDisks)
	}
	for i, d := range c.Disks {
		if err := regular(fmt.Sprintf("disk %d", i), d.Path); err != nil {
			return err
		}
		if d.Format != Raw && d.Format != Qcow2 {
			return fmt.Errorf("disk %d: format %q is not known", i, d.Format)
		}
		if err := d.validBacking(); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	return nil
}

func (c Config) validNetwork() error {
	switch n := c.Network; {
	case n == nil:
		return nil
	case n.Wire == nil:
		return fmt.Errorf("a network card needs a wire")
	case n.MAC == [6]byte{} || n.MAC[0]&1 != 0:
		return fmt.Errorf("network card %x: that is no unicast address", n.MAC)
	}
	return nil
}

func (d Disk) validBacking() error {
	if len(d.Backing) > 0 && d.Format != Qcow2 {
		return fmt.Errorf("a disk of format %s has no backing files", d.Format)
	}
	for i, l := range d.Backing {
		if err := regular(fmt.Sprintf("backing file %d", i), l.Path); err != nil {
			return err
		}
		if l.Format != Raw && l.Format != Qcow2 {
			return fmt.Errorf("backing file %d: format %q is not known", i, l.Format)
		}
		if l.Format == Raw && i < len(d.Backing)-1 {
			return fmt.Errorf("backing file %d of format %s cannot have others below it", i, l.Format)
		}
	}
	return nil
}

func regular(what, path string) error {
	if path == "" {
		return fmt.Errorf("no %s is given", what)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s %s is no regular file", what, path)
	}
	return nil
}

// printable reports whether s can stand in a command line: a control character
// could split it or steer the terminal that shows it.
func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}
