package world

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
)

// tarballs serves a registry as npm wants it: a document for each package, which
// names its tarball.
func (w *World) tarballs(t testing.TB) http.Handler {
	t.Helper()
	m := http.NewServeMux()
	for name, needs := range map[string]string{Package: PackageNeeded, PackageNeeded: ""} {
		manifest := map[string]any{"name": name, "version": Version, "main": "index.js"}
		if needs != "" {
			manifest["dependencies"] = map[string]string{needs: "^1.0.0"}
		}
		ball := makeTarball(t, name, manifest)
		path := fmt.Sprintf("/%s/-/%s-%s.tgz", name, name, Version)
		sum := sha512.Sum512(ball)
		manifest["dist"] = map[string]string{"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
		m.HandleFunc("GET "+path, content("application/octet-stream", ball))
		m.HandleFunc("GET /"+name, func(rw http.ResponseWriter, r *http.Request) {
			w.packument(rw, r, manifest, path)
		})
	}
	return m
}

// packument answers with a package's document. The tarball has the address by
// which the document was asked for.
func (w *World) packument(rw http.ResponseWriter, r *http.Request, manifest map[string]any, path string) {
	url := w.PlainURL(NPM, path)
	if r.TLS != nil {
		url = w.URL(NPM, path)
	}
	version := map[string]any{}
	for k, v := range manifest {
		version[k] = v
	}
	version["dist"] = map[string]any{"tarball": url, "integrity": manifest["dist"].(map[string]string)["integrity"]}
	rw.Header().Set("Content-Type", "application/json")
	json.NewEncoder(rw).Encode(map[string]any{
		"name": manifest["name"], "dist-tags": map[string]string{"latest": Version},
		"versions": map[string]any{Version: version},
	})
}

// makeTarball makes a package of one module that exports the package's name.
func makeTarball(t testing.TB, name string, manifest map[string]any) []byte {
	t.Helper()
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range [][2]string{
		{"package/package.json", string(text)},
		{"package/index.js", fmt.Sprintf("module.exports = %q\n", name)},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, f[1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
