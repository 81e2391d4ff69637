package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// member makes one of an ar archive.
func member(name, body string) string {
	pad := strings.Repeat("\n", len(body)%2)
	return fmt.Sprintf("%-16s%-12s%-6s%-6s%-8s%-10d`\n%s%s", name, "0", "0", "0", "100644", len(body), body, pad)
}

func TestAr(t *testing.T) {
	a, err := newAr(strings.NewReader(arMagic + member("debian-binary", "2.0\n") + member("odd/", "abc") + member("last", "") + member("end", "x")))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		name, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body := ""
		if name != "debian-binary" { // its content is skipped by next
			b, err := io.ReadAll(&a.body)
			if err != nil {
				t.Fatal(err)
			}
			body = string(b)
		}
		got = append(got, name+"="+body)
	}
	if s := strings.Join(got, " "); s != "debian-binary= odd=abc last= end=x" {
		t.Errorf("members: %s", s)
	}
	for name, text := range map[string]string{
		"no magic": "hello, world", "short": arMagic + "abc", "no end mark": arMagic + strings.Repeat("x", 60),
		"negative size": arMagic + strings.Replace(member("a", ""), "0         `", "-5        `", 1),
	} {
		a, err := newAr(strings.NewReader(text))
		if err == nil {
			_, err = a.next()
		}
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzDeb(f *testing.F) {
	f.Add([]byte(arMagic + member("debian-binary", "2.0\n") + member("control.tar", "x") + member("data.tar.xz", "y")))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, modulesName), 0o700); err != nil {
			t.Fatal(err)
		}
		debFiles(t.Context(), bytes.NewReader(b), dir) // an error or not: it must come back
	})
}

func FuzzVmlinux(f *testing.F) {
	image := make([]byte, 4096)
	copy(image[setupMagicAt:], "HdrS")
	binary.LittleEndian.PutUint16(image[setupVersionAt:], payloadVersion)
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], 1024)
	copy(image[5*sector:], lz4LegacyMagic)
	f.Add(image)
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The size that an image states is allocated before it is seen to be
		// wrong; the fuzzer needs no gigabyte to find faults.
		if p, err := bzPayload(b); err == nil && binary.LittleEndian.Uint32(p[len(p)-4:]) > 1<<20 {
			return
		}
		extractVmlinux(b)
	})
}

func FuzzModule(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) { dependsOf(b) })
}

func TestModuleName(t *testing.T) {
	for path, want := range map[string]string{
		"a/virtio-rng.ko": "virtio_rng", "x.ko.xz": "x", "x.ko.zst": "x", "x.ko.gz": "x", "modules.builtin": "", "x.ko.bak": "",
	} {
		if got, ok := moduleName(path); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", path, got, ok)
		}
	}
}
