package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/store"
)

func open(t *testing.T) *Images {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// makeTar makes a tar of pairs of name and content.
func makeTar(pairs ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(pairs[i+1]))}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		io.WriteString(w, pairs[i+1])
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func compressed(t *testing.T, format string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "zstd":
		w, err = zstd.NewWriter(&out)
	case "xz":
		w, err = xz.NewWriter(&out)
	default:
		return b
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// cat reads a file of an image's root.
func cat(t *testing.T, i Image, name string) string {
	t.Helper()
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "cat "+name, i.RootFS).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// files lists all files of the state directory but the store's own.
func files(t *testing.T, im *Images) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(im.s.Root(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "version" && d.Name() != lockName && filepath.Base(filepath.Dir(path)) != locksDir {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportRoot(t *testing.T) {
	root := makeTar("etc/hello", "world\n", "bin/sh", "#!")
	var digest string
	for _, format := range []string{"plain", "gzip", "zstd", "xz"} {
		im := open(t)
		path := filepath.Join(t.TempDir(), "root.tar")
		if err := os.WriteFile(path, compressed(t, format, root), 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := im.Import(t.Context(), path, ImportOptions{Name: "mine"})
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if got := cat(t, i, "/etc/hello"); got != "world\n" {
			t.Errorf("%s: content %q", format, got)
		}
		if digest != "" && i.Digest != digest {
			t.Errorf("%s: digest %s differs from %s for the same root", format, i.Digest, digest)
		}
		digest = i.Digest
		j, err := im.ImportReader(t.Context(), bytes.NewReader(compressed(t, format, root)), ImportOptions{Name: "again"})
		if err != nil || j.Digest != digest || j.RootFS != i.RootFS {
			t.Errorf("%s as a stream: %+v, %v", format, j, err)
		}
		if i.Config.Env[0] != defaultPath || i.Config.Cmd[0] != "/bin/sh" {
			t.Errorf("%s: config %+v", format, i.Config)
		}
	}
}

func TestResolve(t *testing.T) {
	im := open(t)
	i, err := im.ImportReader(t.Context(), bytes.NewReader(makeTar("a", "1")), ImportOptions{Name: "my/app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"my/app:v1", "docker.io/my/app:v1", i.Digest, hexOf(i.Digest), hexOf(i.Digest)[:minDigits]} {
		got, err := im.Resolve(t.Context(), ref)
		if err != nil || got.Digest != i.Digest {
			t.Errorf("%s: %s, %v", ref, got.Digest, err)
		}
	}
	for ref, want := range map[string]error{
		"my/app": api.ErrNotFound, "nothing": api.ErrNotFound, "": api.ErrInvalid, "UPPER": api.ErrInvalid,
		"sha256:" + strings.Repeat("0", 64): api.ErrNotFound, "a b": api.ErrInvalid, "../../etc": api.ErrInvalid,
		strings.Repeat("x", 2000): api.ErrInvalid, "sha256:xyz": api.ErrNotFound,
	} {
		if _, err := im.Resolve(t.Context(), ref); !errors.Is(err, want) {
			t.Errorf("%.40q: %v; want %s", ref, err, api.ClassOf(want))
		}
	}
	if err := os.Remove(i.RootFS); err != nil {
		t.Fatal(err)
	}
	if got, err := im.Resolve(t.Context(), "my/app:v1"); err != nil || cat(t, got, "/a") != "1" {
		t.Errorf("after the ext4 file was lost: %v", err)
	}
}

func TestRemoveAndGC(t *testing.T) {
	im := open(t)
	i, err := im.ImportReader(t.Context(), bytes.NewReader(makeTar("a", "1")), ImportOptions{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Tag(t.Context(), "one", "two"); err != nil {
		t.Fatal(err)
	}
	list, err := im.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Ref != "one" || list[1].Ref != "two" {
		t.Fatalf("list %+v, %v", list, err)
	}
	if err := im.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if n, err := im.GC(t.Context(), nil); err != nil || n != 0 {
		t.Errorf("gc freed %d bytes of a named image, %v", n, err)
	}
	if err := im.Remove(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	used := func(d string) bool { return d == i.Digest }
	if n, err := im.GC(t.Context(), used); err != nil || n != 0 {
		t.Errorf("gc freed %d bytes of an image in use, %v", n, err)
	}
	if got, err := im.Resolve(t.Context(), i.Digest); err != nil || cat(t, got, "/a") != "1" {
		t.Errorf("an image in use is gone: %v", err)
	}
	if p, err := im.Prune(t.Context(), PruneOptions{DryRun: true}); err != nil || len(p.Images) != 1 || p.Bytes == 0 {
		t.Errorf("dry run: %+v, %v", p, err)
	}
	if n, err := im.GC(t.Context(), nil); err != nil || n == 0 {
		t.Errorf("gc freed %d bytes, %v", n, err)
	}
	if left := files(t, im); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestPruneAll(t *testing.T) {
	im := open(t)
	for _, name := range []string{"a", "b"} {
		if _, err := im.ImportReader(t.Context(), bytes.NewReader(makeTar("name", name)), ImportOptions{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := im.Resolve(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	p, err := im.Prune(t.Context(), PruneOptions{All: true, InUse: func(d string) bool { return d == b.Digest }})
	if err != nil || fmt.Sprint(p.Images) != "[a]" {
		t.Fatalf("pruned %+v, %v", p, err)
	}
	if got, err := im.Resolve(t.Context(), "b"); err != nil || cat(t, got, "/name") != "b" {
		t.Errorf("an image in use: %v", err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	from := open(t)
	for _, name := range []string{"a", "reg.example/b:v2"} {
		if _, err := from.ImportReader(t.Context(), bytes.NewReader(makeTar("name", name)), ImportOptions{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	var saved bytes.Buffer
	if err := from.Save(t.Context(), []string{"a", "reg.example/b:v2"}, &saved, nil); err != nil {
		t.Fatal(err)
	}
	to := open(t)
	images, err := to.Load(t.Context(), bytes.NewReader(saved.Bytes()), ImportOptions{})
	if err != nil || len(images) != 2 {
		t.Fatalf("loaded %+v, %v", images, err)
	}
	for _, i := range images {
		if got := cat(t, i, "/name"); got != i.Ref {
			t.Errorf("%s holds %q", i.Ref, got)
		}
	}
	if _, err := to.ImportReader(t.Context(), bytes.NewReader(saved.Bytes()), ImportOptions{Name: "x"}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("one name for two images: %v", err)
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "x", "-C", dir)
	cmd.Stdin = &saved
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := open(t).Import(t.Context(), dir, ImportOptions{}); err != nil {
		t.Errorf("the same as a directory: %v", err)
	}
	if err := from.Save(t.Context(), []string{"none"}, io.Discard, nil); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("save of nothing: %v", err)
	}
}

func dockerSave(t *testing.T, tags []string, layers ...[]byte) []byte {
	t.Helper()
	var pairs, names, diffs []string
	for i, l := range layers {
		name := fmt.Sprintf("l%d/layer.tar", i)
		pairs = append(pairs, name, string(l))
		names = append(names, name)
		diffs = append(diffs, digestOf(l))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": platform("").Architecture, "os": "linux",
		"config": map[string]any{"Env": []string{"A=b"}, "WorkingDir": "/w", "User": "u", "Cmd": []string{"c"}, "Entrypoint": []string{"e"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]dockerImage{{Config: "c.json", RepoTags: tags, Layers: names}})
	if err != nil {
		t.Fatal(err)
	}
	return makeTar(append(pairs, "c.json", string(config), "manifest.json", string(manifest))...)
}

func TestImportDockerSave(t *testing.T) {
	im := open(t)
	b := dockerSave(t, []string{"app:1", "app:2"}, makeTar("a", "1", "b", "1"), makeTar(".wh.b", "", "a", "2"))
	i, err := im.ImportReader(t.Context(), bytes.NewReader(b), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := cat(t, i, "/a"); got != "2" {
		t.Errorf("/a is %q", got)
	}
	if c := i.Config; c.Env[0] != "A=b" || c.WorkingDir != "/w" || c.User != "u" || c.Cmd[0] != "c" || c.Entrypoint[0] != "e" {
		t.Errorf("config %+v", c)
	}
	for _, ref := range []string{"app:1", "app:2"} {
		if got, err := im.Resolve(t.Context(), ref); err != nil || got.Digest != i.Digest {
			t.Errorf("%s: %v", ref, err)
		}
	}
	b = dockerSave(t, nil, makeTar("a", "1"))
	if _, err := im.ImportReader(t.Context(), bytes.NewReader(b), ImportOptions{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("without a name: %v", err)
	}
	if _, err := im.ImportReader(t.Context(), bytes.NewReader(b), ImportOptions{Name: "given"}); err != nil {
		t.Errorf("with a name: %v", err)
	}
}

func TestImportRefuses(t *testing.T) {
	im := open(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	good := makeTar("a", "1")
	layout := func(index string, more ...string) []byte {
		return makeTar(append([]string{"oci-layout", ociLayout, "index.json", index}, more...)...)
	}
	wrong := dockerSave(t, []string{"x"}, makeTar("a", "1"))
	wrong = bytes.Replace(wrong, []byte(digestOf(makeTar("a", "1"))), []byte(digestOf([]byte("other"))), 1)
	for _, c := range []struct {
		name string
		ctx  context.Context
		tar  []byte
		o    ImportOptions
		want error
	}{
		{"no name", t.Context(), good, ImportOptions{}, api.ErrInvalid},
		{"bad name", t.Context(), good, ImportOptions{Name: "Bad Name"}, api.ErrInvalid},
		{"name with a digest", t.Context(), good, ImportOptions{Name: "a@sha256:" + strings.Repeat("0", 64)}, api.ErrInvalid},
		{"ended", ended, good, ImportOptions{Name: "x"}, context.Canceled},
		{"empty", t.Context(), nil, ImportOptions{Name: "x"}, nil}, // an empty tar: an empty root
		{"not a tar", t.Context(), bytes.Repeat([]byte("no "), 1000), ImportOptions{Name: "x"}, api.ErrInvalid},
		{"gzip cut off", t.Context(), compressed(t, "gzip", good)[:60], ImportOptions{Name: "x"}, api.ErrInvalid},
		{"hostile", t.Context(), makeTar("../../etc/passwd", "x"), ImportOptions{Name: "x"}, api.ErrInvalid},
		{"too large", t.Context(), makeTar("a", strings.Repeat("x", 4096)), ImportOptions{Name: "x", Limits: Limits{Bytes: 2000}}, api.ErrExhausted},
		{"too many", t.Context(), makeTar("a", "", "b", ""), ImportOptions{Name: "x", Limits: Limits{Entries: 1}}, api.ErrExhausted},
		{"other platform", t.Context(), dockerSave(t, []string{"x"}, good), ImportOptions{Platform: "linux/s390x"}, api.ErrInvalid},
		{"wrong content", t.Context(), wrong, ImportOptions{}, api.ErrInvalid},
		{"index that is none", t.Context(), layout("["), ImportOptions{}, api.ErrInvalid},
		{"index of nothing", t.Context(), layout(`{"schemaVersion":2,"manifests":[]}`), ImportOptions{}, api.ErrInvalid},
		{"missing blob", t.Context(), layout(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"` + digestOf([]byte("{}")) + `"}]}`), ImportOptions{Name: "x"}, api.ErrInvalid},
		{"changed blob", t.Context(), layout(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"`+digestOf([]byte("{}"))+`"}]}`, "blobs/sha256/"+hexOf(digestOf([]byte("{}"))), "[]"), ImportOptions{Name: "x"}, api.ErrInvalid},
	} {
		_, err := im.ImportReader(c.ctx, bytes.NewReader(c.tar), c.o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %#v", c.name, err, c.want)
		}
		if c.want == nil {
			if err := im.Remove(t.Context(), c.o.Name); err != nil {
				t.Error(err)
			}
			im.GC(t.Context(), nil)
		}
	}
	if _, err := im.Import(t.Context(), filepath.Join(t.TempDir(), "none"), ImportOptions{Name: "x"}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	if _, err := im.Import(t.Context(), t.TempDir(), ImportOptions{Name: "x"}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("empty directory: %v", err)
	}
	if left := files(t, im); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
