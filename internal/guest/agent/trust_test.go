package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

// Files of an image, and what a Trust makes of them.
const (
	debianBundle = "/etc/ssl/certs/ca-certificates.crt"
	fedoraBundle = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
	rootsText    = "-----BEGIN CERTIFICATE-----\nroots\n-----END CERTIFICATE-----" // without a last line end
)

func authority(name string) guest.Trust {
	return guest.Trust{Cert: []byte("-----BEGIN CERTIFICATE-----\n" + name + "\n-----END CERTIFICATE-----\n"), Hash: map[string]string{"first": "0123abcd", "second": "89ab4567"}[name]}
}

func image(t *testing.T, files map[string]string) (guest.Client, string) {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = root + path
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return serve(t, agent.Options{Root: root}), root
}

func TestTrust(t *testing.T) {
	for _, c := range []struct {
		name   string
		files  map[string]string
		bundle string
		anchor string
	}{
		{"debian", map[string]string{debianBundle: rootsText}, debianBundle, "/usr/local/share/ca-certificates/smolvm.crt"},
		{"alpine", map[string]string{debianBundle: rootsText, "/etc/ssl/cert.pem": "-> certs/ca-certificates.crt"}, debianBundle, "/usr/local/share/ca-certificates/smolvm.crt"},
		{"fedora", map[string]string{
			fedoraBundle:                              rootsText,
			"/etc/pki/tls/certs/ca-bundle.crt":        "-> ../../ca-trust/extracted/pem/tls-ca-bundle.pem",
			"/etc/pki/ca-trust/source/anchors/README": "",
		}, fedoraBundle, "/etc/pki/ca-trust/source/anchors/smolvm.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, root := image(t, c.files)
			for _, name := range []string{"first", "first", "second", "first"} {
				a := authority(name)
				r, err := client.Trust(testContext(t), a)
				if err != nil || len(r.Failed) > 0 || r.NeedRoots || r.NeedJava || r.Bundle != c.bundle || r.Java != "" {
					t.Fatalf("%+v, %v", r, err)
				}
				text := textOf(t, root+c.bundle)
				if !strings.HasPrefix(text, rootsText+"\n#") || strings.Count(text, string(a.Cert)) != 1 || strings.Count(text, "BEGIN CERT") != 2 {
					t.Errorf("bundle after %s:\n%s", name, text)
				}
				for _, path := range []string{r.Cert, c.anchor} {
					if got := textOf(t, root+path); !strings.HasSuffix(got, string(a.Cert)) {
						t.Errorf("%s has %s", path, got)
					}
				}
				if st, _ := os.Stat(root + c.bundle); st.Mode().Perm() != 0o640 {
					t.Errorf("the bundle's mode became %v", st.Mode())
				}
				hashes(t, root, a.Hash, r.Cert)
			}
			for path, text := range c.files {
				if st, _ := os.Lstat(root + path); strings.HasPrefix(text, "-> ") && st.Mode()&os.ModeSymlink == 0 {
					t.Errorf("link %s became a file", path)
				}
			}
		})
	}
}

// hashes wants one hash link in each directory of them.
func hashes(t *testing.T, root, hash, to string) {
	t.Helper()
	for _, dir := range []string{"/etc/ssl/certs", "/etc/pki/tls/certs"} {
		links, err := filepath.Glob(root + dir + "/*.0")
		if _, none := os.Stat(root + dir); none != nil {
			continue
		}
		if err != nil || len(links) != 1 || filepath.Base(links[0]) != hash+".0" {
			t.Errorf("%s has links %v, want %s.0", dir, links, hash)
			continue
		}
		if got, _ := os.Readlink(links[0]); got != to {
			t.Errorf("%s leads to %s", links[0], got)
		}
	}
}

// TestTrustLeavesWhatIsDone wants no write where there is nothing new.
func TestTrustLeavesWhatIsDone(t *testing.T) {
	client, root := image(t, map[string]string{debianBundle: rootsText})
	var before os.FileInfo
	for range 2 {
		if _, err := client.Trust(testContext(t), authority("first")); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(root + debianBundle)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !os.SameFile(before, st) {
			t.Error("the bundle was written again")
		}
		before = st
	}
}

// TestTrustInBareImage has an image without authorities, and one with Java.
func TestTrustInBareImage(t *testing.T) {
	client, root := image(t, map[string]string{"/usr/bin/java": ""})
	a := authority("first")
	r, err := client.Trust(testContext(t), a)
	if err != nil || !r.NeedRoots || !r.NeedJava || r.Cert != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	a.Roots, a.Java = []byte(rootsText), []byte("store")
	if r, err = client.Trust(testContext(t), a); err != nil || r.NeedRoots || r.NeedJava || r.Bundle != debianBundle || r.Java == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if text := textOf(t, root+debianBundle); !strings.HasPrefix(text, rootsText+"\n#") || !strings.Contains(text, string(a.Cert)) {
		t.Errorf("bundle: %s", text)
	}
	if got := textOf(t, root+r.Java); got != "store" {
		t.Errorf("store of Java: %q", got)
	}
}

func TestTrustRefuses(t *testing.T) {
	client, root := image(t, map[string]string{debianBundle: rootsText})
	for _, bad := range []guest.Trust{{}, {Cert: []byte("x")}, {Cert: []byte("x"), Hash: "../../..1"}, {Cert: make([]byte, 1<<20), Hash: "01234567"}} {
		if _, err := client.Trust(testContext(t), bad); err == nil {
			t.Errorf("took hash %q and %d bytes", bad.Hash, len(bad.Cert))
		}
	}
	if textOf(t, root+debianBundle) != rootsText {
		t.Error("the bundle was changed")
	}
}

func textOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
