package image

import (
	"archive/tar"
	"io"
	"os"
	"path"

	"github.com/smolvm/smolvm/api"
)

// archive is a set of files by name: a directory, or a tar that was indexed.
type archive struct {
	root  *os.Root        // of a directory
	file  io.ReaderAt     // of a tar
	index map[string]span // of a tar
}

// span is where a file of a tar is. A link has no place but a target.
type span struct {
	off, size int64
	target    string
}

// maxIndexed bounds the entries of a tar that can be an archive of images. More
// are a root file system.
const maxIndexed = 20_000

// maxLinks is how many links are followed to a file; docker save makes one.
const maxLinks = 4

func openDir(dir string) (archive, error) {
	r, err := os.OpenRoot(dir) // no link in it leads out
	return archive{root: r}, err
}

// indexTar notes where the files of a tar are. What cannot be an archive of
// images gives an empty index.
func indexTar(f *os.File) (archive, error) {
	a := archive{file: f, index: map[string]span{}}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return a, err
	}
	t := tar.NewReader(f) // reads header by header, so the file stands where content begins
	for range maxIndexed {
		h, err := t.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return a, api.Errorf(api.Invalid, "not a tar of an image or of a root file system: %w", err)
		}
		name := clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return a, err
			}
			a.index[name] = span{off: off, size: h.Size}
		case tar.TypeSymlink:
			a.index[name] = span{target: clean(path.Join(path.Dir(name), h.Linkname))}
		case tar.TypeLink:
			a.index[name] = span{target: clean(h.Linkname)}
		}
	}
	return archive{}, nil
}

func clean(name string) string { return path.Clean("/" + name)[1:] }

func (a archive) has(name string) bool {
	if a.root != nil {
		st, err := a.root.Stat(name)
		return err == nil && st.Mode().IsRegular()
	}
	_, ok := a.index[name]
	return ok
}

// open opens a file and returns its size.
func (a archive) open(name string) (io.ReadCloser, int64, error) {
	if a.root != nil {
		return openIn(a.root, name)
	}
	s, ok := a.index[clean(name)]
	for i := 0; ok && s.target != "" && i < maxLinks; i++ {
		s, ok = a.index[s.target]
	}
	if !ok || s.target != "" {
		return nil, 0, api.Errorf(api.Invalid, "%.200q is not in the archive", name)
	}
	return io.NopCloser(io.NewSectionReader(a.file, s.off, s.size)), s.size, nil
}

func openIn(r *os.Root, name string) (io.ReadCloser, int64, error) {
	st, err := r.Stat(name) // before the open: that would hang on a pipe
	if err != nil {
		return nil, 0, api.Errorf(api.Invalid, "%w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, 0, api.Errorf(api.Invalid, "%.200q is not a file", name)
	}
	f, err := r.Open(name)
	if err != nil {
		return nil, 0, api.Errorf(api.Invalid, "%w", err)
	}
	return f, st.Size(), nil
}

// read reads a whole file of at most the given size.
func (a archive) read(name string, most int64) ([]byte, error) {
	r, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > most {
		return nil, api.Errorf(api.Invalid, "%.200q has %d bytes, more than %d", name, size, most)
	}
	return io.ReadAll(io.LimitReader(r, most))
}

func (a archive) close() {
	if a.root != nil {
		a.root.Close()
	}
}
