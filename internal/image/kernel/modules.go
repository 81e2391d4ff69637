package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/image/decompress"
)

// bootModules are loaded in every guest before its disks are there. Short:
// each costs boot time, most of it under emulation.
func bootModules() []string {
	return []string{"virtio_pci", "virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "overlay"}
}

// Boot returns the names of the modules to load at boot, in order. What they are is
// not recorded with the kernel, which may be older than what needs them.
func (k Kernel) Boot() []string {
	wanted := map[string]bool{}
	for _, name := range append(bootModules(), bootModulesToo()...) {
		wanted[name] = true
	}
	var names []string
	for _, m := range slices.Backward(k.Meta.Modules) { // each before those that it needs
		if !wanted[m.Name] {
			continue
		}
		names = append(names, m.Name)
		for _, d := range m.Depends {
			wanted[d] = true
		}
	}
	slices.Reverse(names)
	return names
}

// bootModulesToo are loaded with them where a kernel has them: tcp_diag is how the
// agent finds and resets connections in a guest that was restored. There it would
// cost the time that matters. fuse carries the host's folders.
func bootModulesToo() []string { return []string{"tcp_diag", "fuse"} }

// laterModules are put beside them for features that load them when wanted.
// A kernel that lacks one is still a good kernel.
func laterModules() []string {
	return []string{
		"virtio_rng", "virtio_balloon", "erofs", "virtiofs", "tun",
		"vmw_vsock_virtio_transport", "loop",
	}
}

// maxModule bounds a module's file; the largest that we carry has 2.4 MB.
const maxModule = 64 << 20

// tree is a directory of modules, by name as the kernel spells it.
type tree struct {
	paths   map[string]string
	builtin map[string]bool
}

// module is a read one.
type module struct {
	Module
	data []byte
}

// scanModules finds all modules below a directory, and the built-in ones.
func scanModules(dir string) (tree, error) {
	t := tree{map[string]string{}, map[string]bool{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Name() == "modules.builtin" {
			return t.readBuiltin(path)
		}
		if name, ok := moduleName(path); ok && d.Type().IsRegular() {
			t.paths[name] = path
		}
		return nil
	})
	return t, err
}

func (t tree) readBuiltin(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, line := range strings.Fields(string(b)) {
		if name, ok := moduleName(line); ok {
			t.builtin[name] = true
		}
	}
	return nil
}

// moduleName returns the name of the module in a file, and whether it is one.
func moduleName(path string) (string, bool) {
	base := filepath.Base(path)
	for _, ext := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if name, ok := strings.CutSuffix(base, ext); ok {
			return strings.ReplaceAll(name, "-", "_"), true
		}
	}
	return "", false
}

// pick reads the modules that a guest needs with all they depend on, each after
// its dependencies.
func (t tree) pick() ([]module, error) {
	p := picker{tree: t, done: map[string]int{}}
	for _, name := range bootModules() {
		if t.builtin[name] {
			continue
		}
		if err := p.add(name); err != nil {
			return nil, err
		}
	}
	if err := p.addThere(append(bootModulesToo(), laterModules()...)); err != nil {
		return nil, err
	}
	return p.out, nil
}

type picker struct {
	tree
	done map[string]int // name to place in out; inProgress while its dependencies are added
	out  []module
}

const inProgress = -1

// addThere adds those of some modules that the tree has.
func (p *picker) addThere(names []string) error {
	for _, name := range names {
		if _, ok := p.paths[name]; !ok {
			continue
		}
		if err := p.add(name); err != nil {
			return err
		}
	}
	return nil
}

func (p *picker) add(name string) error {
	if i, ok := p.done[name]; ok {
		if i == inProgress {
			return fmt.Errorf("module %s depends on itself", name)
		}
		return nil
	}
	path, ok := p.paths[name]
	if !ok {
		return fmt.Errorf("module %s is not there", name)
	}
	data, err := readModule(path)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	m := module{Module{Name: name}, data}
	deps, err := dependsOf(data)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	p.done[name] = inProgress
	for _, d := range deps {
		if p.builtin[d] {
			continue
		}
		if err := p.add(d); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.Depends = append(m.Depends, d)
	}
	p.done[name] = len(p.out)
	p.out = append(p.out, m)
	return nil
}

// readModule reads a module's file, unpacked: the agent hands modules to the
// kernel as they are.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, _, err := decompress.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if len(b) > maxModule {
		return nil, fmt.Errorf("larger than %d bytes", maxModule)
	}
	return b, err
}

// dependsOf reads what a module needs from the module itself: the package
// brings no modules.dep, which depmod would make on installation.
func dependsOf(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("it has no .modinfo section")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for field := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := bytes.CutPrefix(field, []byte("depends="))
		if !ok || len(list) == 0 {
			continue
		}
		for name := range strings.SplitSeq(string(list), ",") {
			deps = append(deps, strings.ReplaceAll(name, "-", "_"))
		}
	}
	return deps, nil
}
