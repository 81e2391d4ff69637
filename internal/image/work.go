package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image/decompress"
	"github.com/smolvm/smolvm/internal/image/progress"
	"github.com/smolvm/smolvm/internal/image/rootfs"
	"github.com/smolvm/smolvm/internal/store"
)

// work is an image that is being made. Its files live in a scratch directory;
// what is in the store already is linked there, so that no GC can take it away
// before commit.
type work struct {
	*store.Scratch
	im       *Images
	limits   Limits
	progress progress.Func
}

func (im *Images) work(prefix string, l Limits, p progress.Func) (*work, error) {
	s, err := im.s.Scratch(prefix)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "make room for the image: %w", err)
	}
	w := &work{s, im, l, p}
	for _, d := range []string{blobsDir, rootfsDir} {
		if err := os.Mkdir(w.Path(d), 0o700); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// have links a file of the store into the work, and reports whether it is there now.
func (w *work) have(dir, name string) bool {
	err := os.Link(w.im.path(dir, name), w.Path(dir, name))
	return err == nil || errors.Is(err, os.ErrExist)
}

// blob is what is known of a blob before it is read.
type blob struct {
	digest string // empty where it is not known
	size   int64  // exact where the digest is known; else the most it may have
}

// addBlob writes a blob and returns its digest and size. A blob that is not what
// it should be is refused and not kept.
func (w *work) addBlob(b blob, r io.Reader) (string, int64, error) {
	f, err := os.CreateTemp(w.Path(blobsDir), "new-")
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(f.Name()) // fails, rightly, once renamed
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, b.size+1))
	if err = errors.Join(err, f.Chmod(0o400), f.Sync(), f.Close()); err != nil {
		return "", 0, err
	}
	digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
	if n > b.size || (b.digest != "" && n < b.size) {
		return "", 0, api.Errorf(api.Invalid, "blob %s does not have the %d bytes that were announced", b.digest, b.size)
	}
	if b.digest != "" && b.digest != digest {
		return "", 0, api.Errorf(api.Invalid, "blob has hash %s, not %s: it was changed on the way", digest, b.digest)
	}
	return digest, n, os.Rename(f.Name(), w.Path(blobsDir, hexOf(digest)))
}

// addBytes adds a small blob that we made or checked ourselves.
func (w *work) addBytes(b []byte) error {
	return store.WriteFile(w.Path(blobsDir, hexOf(digestOf(b))), b, 0o400)
}

// finish makes the ext4 file of an image whose blobs are all there, and moves
// everything into place. An empty name gives the image none.
func (w *work) finish(ctx context.Context, manifest, config []byte, name string) (Image, error) {
	r, err := newRecord(manifest, config)
	if err != nil {
		return Image{}, err
	}
	if err := errors.Join(w.addBytes(manifest), w.addBytes(config)); err != nil {
		return Image{}, err
	}
	if r.RootFSBytes, err = w.rootFS(ctx, r.Layers); err != nil {
		return Image{}, err
	}
	if err := w.commit(r, name); err != nil {
		return Image{}, err
	}
	r.Ref = name
	return r.image(w.im), nil
}

// rootFS sees to the ext4 file of a list of layers and returns its size.
func (w *work) rootFS(ctx context.Context, layers []Layer) (int64, error) {
	file := filepath.Base(w.im.rootfsPath(layers))
	path := w.Path(rootfsDir, file)
	if !w.have(rootfsDir, file) {
		if _, err := rootfs.WriteExt4(ctx, w.open(layers), path, w.limits); err != nil {
			return 0, api.Errorf(api.ClassOf(err), "unpack layers: %w", err)
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// open returns the layers as unpacked streams that check their hash. Every layer
// is read twice; together they are one step.
func (w *work) open(layers []Layer) []rootfs.Layer {
	var total int64
	for _, l := range layers {
		total += 2 * l.Size
	}
	t := &tally{f: w.progress, p: progress.Progress{Step: "unpack layers", Total: total}}
	out := make([]rootfs.Layer, len(layers))
	for i, l := range layers {
		out[i].Open = func() (io.ReadCloser, error) {
			return openLayer(w.Path(blobsDir, hexOf(l.Digest)), l.DiffID, t)
		}
	}
	return out
}

// tally reports the sum of several streams that are read one after the other.
type tally struct {
	f progress.Func
	p progress.Progress
}

func (t *tally) reader(r io.Reader) io.Reader {
	before := t.p.Done
	count := progress.Func(func(p progress.Progress) {
		t.p.Done = before + p.Done
		t.f.Report(t.p)
	})
	return count.Reader("", 0, r)
}

// layerReader is an unpacked layer that fails at its end where its hash is wrong.
type layerReader struct {
	io.ReadCloser
	f    *os.File
	h    hash.Hash
	want string
}

func openLayer(path, diffID string, t *tally) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	rc, _, err := decompress.NewReader(t.reader(f))
	if err != nil {
		f.Close()
		return nil, api.Errorf(api.Invalid, "read layer: %w", err)
	}
	return &layerReader{rc, f, sha256.New(), diffID}, nil
}

func (l *layerReader) Read(b []byte) (int, error) {
	n, err := l.ReadCloser.Read(b)
	l.h.Write(b[:n])
	if err == io.EOF {
		if got := "sha256:" + hex.EncodeToString(l.h.Sum(nil)); got != l.want {
			return n, api.Errorf(api.Invalid, "layer's content has hash %s, not %s", got, l.want)
		}
	}
	return n, err
}

// Close closes the stream and its file.
func (l *layerReader) Close() error { return errors.Join(l.ReadCloser.Close(), l.f.Close()) }

// commit moves the work's files into the store, writes the record and sets the name.
func (w *work) commit(r record, name string) error {
	l, err := w.im.lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	for _, d := range []string{blobsDir, rootfsDir} {
		if err := w.move(d); err != nil {
			return err
		}
	}
	if err := store.WriteJSON(w.im.path(recordsDir, hexOf(r.Digest)+".json"), r); err != nil {
		return err
	}
	if name == "" {
		return nil
	}
	return w.im.setRef(name, r.Digest)
}

// move puts all files of one of the work's directories into the store's. A file
// that is there already has the same content by its name.
func (w *work) move(dir string) error {
	entries, err := os.ReadDir(w.Path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := os.Link(w.Path(dir, e.Name()), w.im.path(dir, e.Name()))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return store.SyncDir(w.im.path(dir))
}

// restoreRootFS makes the ext4 file of an image again from its layers.
func (im *Images) restoreRootFS(ctx context.Context, r record) error {
	w, err := im.work("unpack", Limits{}, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, l := range r.Layers {
		if !w.have(blobsDir, hexOf(l.Digest)) {
			return api.Errorf(api.NotFound, "layer %s is missing", l.Digest).
				WithRecovery("Remove the image and get it again.")
		}
	}
	if r.RootFSBytes, err = w.rootFS(ctx, r.Layers); err != nil {
		return err
	}
	return w.commit(r, "")
}
