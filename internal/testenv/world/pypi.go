package world

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Packages of the indexes for pip and npm: the first needs the second, so that
// who installs it must ask more than once.
const (
	Package       = "smolworld"
	PackageNeeded = "smolworld-base"
	Version       = "1.2.3"
)

// wheels serves an index as PEP 503 has it.
func (w *World) wheels(t testing.TB) http.Handler {
	t.Helper()
	m := http.NewServeMux()
	var names strings.Builder
	for name, needs := range map[string]string{Package: PackageNeeded, PackageNeeded: ""} {
		wheel := makeWheel(t, name, needs)
		file := wheelName(name) + "-" + Version + "-py3-none-any.whl"
		sum := sha256.Sum256(wheel)
		page := fmt.Sprintf("<!DOCTYPE html><html><body><a href=\"/files/%s#sha256=%s\">%s</a></body></html>\n", file, hex.EncodeToString(sum[:]), file)
		m.HandleFunc("GET /simple/"+name+"/{$}", content("text/html", []byte(page)))
		m.HandleFunc("GET /files/"+file, content("application/zip", wheel))
		fmt.Fprintf(&names, "<a href=\"/simple/%s/\">%s</a>\n", name, name)
	}
	m.HandleFunc("GET /simple/{$}", content("text/html", []byte("<!DOCTYPE html><html><body>"+names.String()+"</body></html>\n")))
	return m
}

func content(kind string, b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Write(b)
	}
}

// wheelName is a package's name as modules and files of wheels have it.
func wheelName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// makeWheel makes a package of one module whose variable NAME is the package's name.
func makeWheel(t testing.TB, name, needs string) []byte {
	t.Helper()
	info := wheelName(name) + "-" + Version + ".dist-info/"
	meta := fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", name, Version)
	if needs != "" {
		meta += "Requires-Dist: " + needs + "\n"
	}
	files := [][2]string{
		{wheelName(name) + "/__init__.py", fmt.Sprintf("NAME = %q\n", name)},
		{info + "METADATA", meta},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: smolvm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
	}
	var record strings.Builder
	for _, f := range files {
		sum := sha256.Sum256([]byte(f[1]))
		fmt.Fprintf(&record, "%s,sha256=%s,%d\n", f[0], base64.RawURLEncoding.EncodeToString(sum[:]), len(f[1]))
	}
	files = append(files, [2]string{info + "RECORD", record.String() + info + "RECORD,,\n"})
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		fw, err := z.Create(f[0])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(fw, f[1])
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
