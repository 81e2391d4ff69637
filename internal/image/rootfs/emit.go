package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/undo"
)

// Stats is what came out.
type Stats struct {
	Files int64 // names in the root
	Bytes int64 // content of all regular files
	Size  int64 // of the ext4 file
}

// Flatten writes the root that the layers make as one tar stream: directories,
// then contents in the order of the layers, then other nodes, then hard links.
func Flatten(ctx context.Context, layers []Layer, l Limits, w io.Writer) (Stats, error) {
	b := newBuilder(l)
	for i, layer := range layers {
		if err := b.add(ctx, i, layer); err != nil {
			return Stats{}, api.Errorf(classOf(err), "layer %d: %w", i+1, err)
		}
	}
	e := emitter{w: tar.NewWriter(w), first: map[*node]string{}, content: map[place]*node{}}
	e.walk(b.root, "./")
	for i, layer := range layers {
		if err := e.contents(ctx, i, layer); err != nil {
			return Stats{}, api.Errorf(classOf(err), "layer %d: %w", i+1, err)
		}
	}
	e.finish()
	return e.stats, errors.Join(e.err, e.w.Close())
}

// classOf is api.ClassOf, but an error without a class is the layer's fault:
// its stream broke or does not decompress.
func classOf(err error) api.Class {
	var e *api.Error
	if errors.As(err, &e) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return api.ClassOf(err)
	}
	return api.Invalid
}

// emitter writes a tree as a tar.
type emitter struct {
	w       *tar.Writer
	err     error
	first   map[*node]string // first name of each file that is no directory
	content map[place]*node  // files by the entry that holds their content
	others  []*tar.Header    // nodes without content
	links   []*tar.Header
	stats   Stats
}

// walk writes the directories and sorts out the rest, in order of name.
func (e *emitter) walk(n *node, path string) {
	e.stats.Files++
	e.header(header(n, path))
	for _, name := range n.names() {
		c := n.children[name]
		p := path + name
		if c.isDir() {
			e.walk(c.node, p+"/")
			continue
		}
		e.stats.Files++
		first, seen := e.first[c.node]
		switch {
		case seen:
			e.links = append(e.links, &tar.Header{Typeflag: tar.TypeLink, Name: p, Linkname: first})
		case c.typ == tar.TypeReg:
			e.first[c.node] = p
			e.content[c.from] = c.node
		default:
			e.first[c.node] = p
			e.others = append(e.others, header(c.node, p))
		}
	}
}

// contents copies what is still wanted from one layer.
func (e *emitter) contents(ctx context.Context, layer int, l Layer) error {
	r, err := l.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return eachEntry(ctx, r, func(entry int64, _ *tar.Header, body io.Reader) error {
		n, ok := e.content[place{layer, entry}]
		if !ok {
			return nil
		}
		e.header(header(n, e.first[n]))
		if e.err != nil {
			return e.err
		}
		written, err := io.Copy(e.w, body)
		e.stats.Bytes += written
		return err
	})
}

func (e *emitter) finish() {
	for _, h := range e.others {
		e.header(h)
	}
	for _, h := range e.links {
		e.header(h)
	}
}

func (e *emitter) header(h *tar.Header) {
	if e.err == nil {
		e.err = e.w.WriteHeader(h)
	}
}

func header(n *node, path string) *tar.Header {
	h := &tar.Header{
		Typeflag: n.typ, Name: path, Linkname: n.target, Mode: n.mode, Uid: n.uid, Gid: n.gid, Size: n.size,
		ModTime: n.mtime, AccessTime: n.mtime, ChangeTime: n.mtime, Devmajor: n.major, Devminor: n.minor,
		Format: tar.FormatPAX, // the only one with times below a second, long names and attributes
	}
	for name, value := range n.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+name] = value
	}
	return h
}

// maxDisk is the most that the ext4 file may take: the limit on content, and
// half as much again for a root of many small files.
func maxDisk(l Limits) int64 { return l.Bytes + l.Bytes/2 }

// WriteExt4 writes the root that the layers make as a new read-only ext4 file.
// After an error the file is not there.
func WriteExt4(ctx context.Context, layers []Layer, path string, l Limits) (Stats, error) {
	l = l.withDefaults()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o400)
	if err != nil {
		return Stats{}, err
	}
	var u undo.Stack
	defer u.Run()
	u.Add(func() { f.Close(); os.Remove(path) })

	stats, err := convert(ctx, layers, l, f)
	if err != nil {
		return Stats{}, err
	}
	if err := padInodeBitmaps(f); err != nil {
		return Stats{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return Stats{}, err
	}
	stats.Size = st.Size()
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return Stats{}, err
	}
	u.Success()
	return stats, nil
}

// convert pipes the flattened tar into the ext4 writer.
func convert(ctx context.Context, layers []Layer, l Limits, f *os.File) (Stats, error) {
	pr, pw := io.Pipe()
	var stats Stats
	flat := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(pw, 1<<20)
		var err error
		stats, err = Flatten(ctx, layers, l, w)
		if err == nil {
			err = w.Flush()
		}
		pw.CloseWithError(err)
		flat <- err
	}()
	err := tar2ext4.ConvertTarToExt4(pr, f, tar2ext4.MaximumDiskSize(maxDisk(l)))
	pr.CloseWithError(errConvert)
	// The layers' own error says more than the writer's that followed from it.
	if ferr := <-flat; ferr != nil && !errors.Is(ferr, errConvert) {
		return Stats{}, ferr
	}
	if errors.Is(err, unix.ENOSPC) {
		return Stats{}, api.Errorf(api.Exhausted, "write ext4: %w", err)
	}
	if err != nil {
		return Stats{}, api.Errorf(api.Invalid, "write ext4: %w", err)
	}
	return stats, nil
}

var errConvert = errors.New("the ext4 writer ended")
