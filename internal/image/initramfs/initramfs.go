// Package initramfs makes the first file system of a guest: the agent as /init
// and the kernel modules that it loads.
//
//	path, err := initramfs.Build(s, k, agent)
//
// The archive holds
//
//	/init             the agent
//	/modules/NAME.ko  kernel modules
//	/modules/load     names of the modules to load at boot, one a line, in order
//	/modules/deps     every module, one a line in dependency order: "NAME: DEP DEP"
//	/dev, /proc, /sys, /run  empty, for the agent to mount on
//
// It is not compressed: reading 8 MB costs less than unpacking them under
// emulation.
package initramfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/kernel"
	"github.com/smolvm/smolvm/internal/store"
)

// format is part of the cache key: count it up when the content changes for the
// same inputs.
const format = "3"

// dirName is the directory of made archives, beside the kernels.
const dirName = "initramfs"

// unused is how long an archive that nobody asked for is kept by GC. QEMU reads
// it only while it starts, and every start asks for it.
const unused = 24 * time.Hour

// Build returns the path of the initramfs of a kernel and an agent's binary,
// which it makes where it is not there. The file is never changed.
func Build(s store.Store, k kernel.Kernel, agent []byte) (string, error) {
	if len(agent) == 0 {
		return "", api.Errorf(api.Internal, "make initramfs: the agent is empty")
	}
	path, ok := Find(s, k, sha256.Sum256(agent))
	if ok {
		return path, nil
	}
	if err := build(s, k, agent, path); err != nil {
		return "", api.Errorf(api.ClassOf(err), "make initramfs: %w", err)
	}
	return path, nil
}

// Find returns the path of the initramfs of a kernel and of an agent with this
// digest, and whether Build has made it. It spares who asks often the agent's bytes.
func Find(s store.Store, k kernel.Kernel, agent [sha256.Size]byte) (string, bool) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%x\n", format, k.ID, agent)
	path := filepath.Join(s.Kernels(), dirName, hex.EncodeToString(h.Sum(nil))+".cpio")
	now := time.Now()
	return path, os.Chtimes(path, now, now) == nil // GC sees that it is wanted
}

func build(s store.Store, k kernel.Kernel, agent []byte, path string) error {
	work, err := s.Scratch("initramfs")
	if err != nil {
		return err
	}
	defer work.Close()
	f, err := os.OpenFile(work.Path("cpio"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return err
	}
	err = write(f, k, agent)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return errors.Join(os.Rename(f.Name(), path), store.SyncDir(filepath.Dir(path)))
}

// write writes the archive. Each module is compared with its recorded hash.
func write(w io.Writer, k kernel.Kernel, agent []byte) error {
	c := newCpio(w)
	for _, d := range []string{"dev", "modules", "proc", "run", "sys"} {
		c.dir(d)
	}
	c.file("init", modeExec, agent)
	var deps strings.Builder
	for _, m := range k.Meta.Modules {
		b, err := os.ReadFile(k.Module(m.Name))
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != m.SHA256 {
			return api.Errorf(api.Unavailable, "module %s is damaged", m.Name).
				WithCode("damaged_kernel").WithRecovery("Run smolvm setup again.")
		}
		c.file("modules/"+m.Name+".ko", modeFile, b)
		fmt.Fprintf(&deps, "%s:%s\n", m.Name, strings.TrimRight(" "+strings.Join(m.Depends, " "), " "))
	}
	c.file("modules/deps", modeFile, []byte(deps.String()))
	c.file("modules/load", modeFile, []byte(strings.Join(append(k.Boot(), ""), "\n")))
	return c.close()
}

// GC removes archives that nobody asked for in the last day, and returns their paths.
func GC(s store.Store) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Kernels(), dirName))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var gone []string
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < unused {
			continue
		}
		path := filepath.Join(s.Kernels(), dirName, e.Name())
		errs = append(errs, os.Remove(path))
		gone = append(gone, path)
	}
	return gone, errors.Join(errs...)
}
