package agent

import (
	"bufio"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/copytar"
	"golang.org/x/sys/unix"
)

// mark is what the writable layer held when changes began to count.
type mark struct {
	mu   sync.Mutex
	root *node // nil: never marked
}

// node is a file of the layer. Its change time moves with content, mode and owner.
type node struct {
	name     string
	ino      uint64
	ctime    int64
	size     int64
	kind     nodeKind
	opaque   bool // a directory that hides the base's
	children []node
}

type nodeKind uint8

const (
	kindFile nodeKind = iota
	kindDir
	kindWhiteout // says that the base's file of this name is removed
)

// maxNodes bounds the files of a layer that can be marked: some 100 bytes each.
const maxNodes = 512 << 10

// setMark serves OpMark.
func (a *Agent) setMark() error {
	a.mark.mu.Lock()
	defer a.mark.mu.Unlock()
	root, err := a.openUpper()
	if err != nil {
		return err
	}
	defer root.Close()
	sc := scanner{left: maxNodes}
	top := &node{kind: kindDir}
	if top.children, err = sc.scan(root, "."); err != nil {
		return failed("mark", "/", err)
	}
	a.mark.root = top
	sc.settle()
	return nil
}

// openUpper opens the writable layer.
func (a *Agent) openUpper() (*os.Root, error) {
	if a.o.Upper == "" {
		return nil, errNoLayer
	}
	root, err := os.OpenRoot(a.o.Upper)
	if err != nil {
		return nil, failed("open the writable layer of", "/", err)
	}
	return root, nil
}

var errNoLayer = api.Errorf(api.Unavailable, "look at the writable layer: this guest has none")

// scanner reads a layer's metadata.
type scanner struct {
	left   int
	newest int64
}

// scan returns what is in a directory of the layer, sorted by name.
func (sc *scanner) scan(dir *os.Root, at string) ([]node, error) {
	names, err := sortedNames(dir)
	if err != nil {
		return nil, err
	}
	if sc.left -= len(names); sc.left < 0 {
		return nil, api.Errorf(api.Exhausted, "the writable layer holds more than %d files", maxNodes)
	}
	nodes := make([]node, 0, len(names))
	for _, name := range names {
		n, err := lookAt(dir, name)
		if os.IsNotExist(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		sc.newest = max(sc.newest, n.ctime)
		if n.kind == kindDir {
			if n.children, err = sc.below(dir, name, path.Join(at, name)); err != nil {
				return nil, err
			}
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (sc *scanner) below(dir *os.Root, name, at string) ([]node, error) {
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	return sc.scan(sub, at)
}

// sortedNames returns the names in a directory, in the order of their bytes.
func sortedNames(dir *os.Root) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// settle waits until a change gets a later time than all that were seen: the
// kernel stamps files with a clock that moves in ticks.
func (sc *scanner) settle() {
	for {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts) != nil || ts.Nano() > sc.newest {
			return
		}
		if ts.Nano() < sc.newest-int64(time.Second) {
			return // the clock was set back; waiting would take as long
		}
		time.Sleep(time.Millisecond)
	}
}

// lookAt describes a file of the layer.
func lookAt(dir *os.Root, name string) (node, error) {
	st, err := lstat(dir, name)
	if err != nil {
		return node{}, err
	}
	n := node{name: name, ino: st.Ino, ctime: st.Ctim.Nano(), size: st.Size}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		n.kind = kindDir
		n.opaque, err = isOpaque(dir, name)
	case isWhiteout(st):
		n.kind = kindWhiteout
	}
	return n, err
}

func lstat(dir *os.Root, name string) (*syscall.Stat_t, error) {
	fi, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, unix.EINVAL
	}
	return st, nil
}

// isWhiteout reports whether a file of the layer says that the base's of its name
// is removed.
func isWhiteout(st *syscall.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// isOpaque reports whether a directory of the layer hides the base's.
func isOpaque(dir *os.Root, name string) (bool, error) {
	f, err := dir.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [1]byte
	n, err := unix.Fgetxattr(int(f.Fd()), "trusted.overlay.opaque", b[:])
	return err == nil && n == 1 && b[0] == 'y', nil
}

// The names by which a layer says that files of the layers below are gone.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// changes serves OpChanges.
func (a *Agent) changes(s stream, _ []byte) error {
	a.mark.mu.Lock()
	defer a.mark.mu.Unlock()
	if a.mark.root == nil {
		return api.Errorf(api.Conflict, "list changes: nothing was marked since the guest's start")
	}
	root, err := a.openUpper()
	if err != nil {
		return err
	}
	defer root.Close()
	w := bufio.NewWriterSize(dataWriter{s}, guest.MaxPayload)
	d := differ{p: copytar.NewPacker(w, copytar.PackOptions{Xattrs: true})}
	if err := d.dir(root, "", a.mark.root.children); err != nil {
		return failed("list changes of", "/", err)
	}
	if err := d.p.Close(); err != nil {
		return err
	}
	return w.Flush()
}

// differ packs what differs between the layer and the mark.
type differ struct {
	p *copytar.Packer
	// pending are the directories above, whose headers go before the first change
	// below them.
	pending []pendingDir
}

type pendingDir struct {
	parent   *os.Root
	base, as string
	packed   bool
}

// parents packs the directories above that are not packed yet.
func (d *differ) parents() error {
	for i := range d.pending {
		p := &d.pending[i]
		if p.packed {
			continue
		}
		if err := d.p.Add(p.parent, p.base, p.as); err != nil {
			return err
		}
		p.packed = true
	}
	return nil
}

// dir packs what changed in a directory since it held old.
func (d *differ) dir(dir *os.Root, as string, old []node) error {
	names, err := sortedNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := lookAt(dir, name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		i, found := slices.BinarySearchFunc(old, name, func(o node, name string) int { return strings.Compare(o.name, name) })
		var was *node
		if found {
			was = &old[i]
		}
		if err := d.node(dir, path.Join(as, name), n, was); err != nil {
			return err
		}
	}
	for _, o := range old {
		if _, there := slices.BinarySearch(names, o.name); !there && o.kind != kindWhiteout {
			if err := d.gone(as, o.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// node packs one file if it changed; was is nil for a new one.
func (d *differ) node(dir *os.Root, as string, n node, was *node) error {
	same := was != nil && was.ino == n.ino && was.kind == n.kind
	changed := !same || was.ctime != n.ctime || was.size != n.size
	switch {
	case n.kind == kindDir:
		return d.subdir(dir, as, n, was, changed)
	case n.kind == kindWhiteout:
		// All whiteouts are links to one inode, whose time moves with every new one.
		if was != nil && was.kind == kindWhiteout {
			return nil
		}
		return d.gone(path.Dir(as), n.name)
	case !changed:
		return nil
	}
	if err := d.parents(); err != nil {
		return err
	}
	return d.p.Add(dir, n.name, as)
}

// gone packs that a file is removed.
func (d *differ) gone(dir, name string) error {
	if err := d.parents(); err != nil {
		return err
	}
	return d.p.AddEmpty(path.Join(dir, whiteoutPrefix+name))
}

func (d *differ) subdir(parent *os.Root, as string, n node, was *node, changed bool) error {
	d.pending = append(d.pending, pendingDir{parent: parent, base: n.name, as: as})
	defer func() { d.pending = d.pending[:len(d.pending)-1] }()
	same := was != nil && was.kind == kindDir && was.ino == n.ino
	if changed {
		if err := d.parents(); err != nil {
			return err
		}
	}
	var old []node
	if same {
		old = was.children
	}
	// A directory that took the place of one that was there at the mark hides
	// that one's files, wherever they were.
	replaced := was != nil && was.kind == kindDir && !same
	if n.opaque && !(same && was.opaque) || replaced {
		if err := d.parents(); err != nil {
			return err
		}
		if err := d.p.AddEmpty(path.Join(as, opaqueMarker)); err != nil {
			return err
		}
	}
	dir, err := parent.OpenRoot(n.name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return d.dir(dir, as, old)
}
