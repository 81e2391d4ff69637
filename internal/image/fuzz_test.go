package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzManifest: no manifest or config may crash us, and what is taken has sane digests.
func FuzzManifest(f *testing.F) {
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + digestOf(nil)[7:] + `"]}}`
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+digestOf([]byte(config))+`","size":9},"layers":[{"digest":"`+digestOf(nil)+`","size":1}]}`), []byte(config))
	f.Add([]byte(`{}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		r, err := newRecord(manifest, config)
		if err != nil {
			return
		}
		for _, l := range r.Layers {
			if len(hexOf(l.Digest)) != 64 || len(hexOf(l.DiffID)) != 64 || filepath.Base(hexOf(l.Digest)) != hexOf(l.Digest) {
				t.Fatalf("layer %+v", l)
			}
		}
	})
}

// FuzzArchive: no file that is imported may crash us or leave anything.
func FuzzArchive(f *testing.F) {
	f.Add(makeTar("oci-layout", ociLayout, "index.json", `{"schemaVersion":2,"manifests":[{"digest":"`+digestOf(nil)+`","size":0}]}`))
	f.Add(makeTar("manifest.json", `[{"Config":"c","RepoTags":["x"],"Layers":["l"]}]`, "c", "{}", "l", ""))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		a, err := indexTar(file)
		if err != nil {
			return
		}
		for name := range a.index {
			if r, size, err := a.open(name); err == nil {
				if n, _ := new(bytes.Buffer).ReadFrom(r); n > size {
					t.Fatalf("%q gave %d bytes of %d", name, n, size)
				}
			}
		}
		findImages(a, platform(""))
		dockerManifest(a)
	})
}
