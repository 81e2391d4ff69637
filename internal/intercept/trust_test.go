package intercept

import (
	"context"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

// TestSubjectHash holds our hash against OpenSSL's.
func TestSubjectHash(t *testing.T) {
	for range 3 {
		c, err := makeCA(time.Now())
		must(t, err)
		cmd := exec.Command("openssl", "x509", "-noout", "-hash")
		cmd.Stdin = strings.NewReader(string(c.pem()))
		want, err := cmd.Output()
		must(t, err)
		if got, err := subjectHash(c.cert); err != nil || got != strings.TrimSpace(string(want)) {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

// guestAt is a guest whose agent is an ordinary process with its files in root.
func guestAt(t *testing.T, root string) guest.Client {
	t.Helper()
	host, port := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), port, agent.Options{Root: root}) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := guest.Connect(ctx, host)
	must(t, err)
	t.Cleanup(func() { s.Close(); port.Close(); <-served })
	return guest.Client{Opener: s}
}

// install trusts a CA in an image that has Java and nothing else, and returns the
// variables with paths as the host sees them.
func install(t *testing.T, c *CA) (root string, env []string) {
	t.Helper()
	root = t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "usr/lib/jvm"), 0o755))
	env, notes, err := c.Install(context.Background(), guestAt(t, root))
	must(t, err)
	if len(notes) > 0 {
		t.Errorf("notes: %s", notes)
	}
	for i := range env {
		env[i] = strings.ReplaceAll(env[i], "=/etc/", "="+root+"/etc/")
	}
	return root, env
}

func TestInstall(t *testing.T) {
	a := newAuthority(t)
	file := filepath.Join(t.TempDir(), "roots.pem")
	text := "# words\n" + string(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: a.cert.Raw}))
	must(t, os.WriteFile(file, []byte(text), 0o600))
	t.Setenv("SSL_CERT_FILE", file)
	c := NewCA(filepath.Join(t.TempDir(), "ca.pem"))
	own, err := c.open(time.Now())
	must(t, err)
	root, env := install(t, c)
	b, err := os.ReadFile(root + "/etc/ssl/certs/ca-certificates.crt")
	must(t, err)
	if list := parseRoots(b); len(list) != 2 || !list[0].Equal(a.cert) || !list[1].Equal(own.cert) {
		t.Errorf("bundle: %s", b)
	}
	b, err = os.ReadFile(root + "/etc/smolvm/java.p12")
	must(t, err)
	if list, err := pkcs12.DecodeTrustStore(b, pkcs12.DefaultPassword); err != nil || len(list) != 2 || !list[1].Equal(own.cert) {
		t.Errorf("store: %v, %v", list, err)
	}
	for _, kv := range env {
		for _, part := range strings.Fields(kv) {
			if _, path, ok := strings.Cut(part, "="+root); ok {
				if _, err := os.Stat(root + path); err != nil {
					t.Errorf("%s: %v", kv, err)
				}
			}
		}
	}
	if len(env) < 12 || !strings.HasPrefix(env[0], "SSL_CERT_FILE=") {
		t.Errorf("environment %q", env)
	}
}
