package smolvm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// readOnly are the rules that need requests to be seen.
func readOnly(w *world.World) *api.Policy {
	r := w.Allow(world.WWW, world.Git)
	r.ID, r.Methods, r.Paths = "read-only", []string{"GET", "HEAD"}, []string{"/", "/demo.git"}
	return &api.Policy{Rules: []api.Rule{r}}
}

// TestVMIntercept has TLS opened, and a guest that trusts it.
func TestVMIntercept(t *testing.T) {
	w := world.Start(t)
	t.Setenv("SSL_CERT_FILE", w.CAFile)
	c := client(t)
	n := worldNetwork(w, world.WWW)
	sb := sandbox(t, c, smolvm.Spec{Name: "opened", Network: n})
	t.Run("not before it is needed", func(t *testing.T) {
		if got := sh(t, sb, "env | grep -c CURL_CA_BUNDLE; ls /etc/smolvm/ca.pem 2>&1 || true"); !strings.HasPrefix(got, "0\n") || !strings.Contains(got, "No such file") {
			t.Errorf("a guest of whom nothing is opened: %s", got)
		}
	})
	must[smolvm.Network](t)(sb.SetNetwork(t.Context(), smolvm.NetworkChange{Policy: readOnly(w)}))
	t.Run("programs", func(t *testing.T) { testOpened(t, w, sb) })
	first := issuer(t, sb, w)
	t.Run("kept over stop, hibernation and rewind", func(t *testing.T) {
		for _, hibernate := range []bool{true, false} {
			if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: hibernate}); err != nil {
				t.Fatal(err)
			}
			if err := sb.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := issuer(t, sb, w); got != first {
				t.Errorf("hibernated %v: the authority became %s, was %s", hibernate, got, first)
			}
		}
	})
	t.Run("fork", func(t *testing.T) {
		forks := must[[]*smolvm.Sandbox](t)(sb.Fork(t.Context(), smolvm.ForkOptions{N: 1}))
		defer forks[0].Remove(t.Context())
		if got := issuer(t, forks[0], w); got == first {
			t.Errorf("the fork has the authority of what it was forked from")
		}
		if got := sh(t, forks[0], "grep -c 'authority of this sandbox' /etc/ssl/certs/ca-certificates.crt"); got != "1" {
			t.Errorf("%s authorities in the fork's bundle", got)
		}
	})
	t.Run("keys lie beside the sandbox alone", func(t *testing.T) {
		noKeys(t, c.Home)
		if got := sh(t, sb, "grep -rl 'PRIVATE KEY' /etc/smolvm /usr/local/share /etc/ssl/certs 2>/dev/null | wc -l"); got != "0" {
			t.Errorf("%s keys in the guest", got)
		}
	})
}

// testOpened runs programs that know nothing of us.
func testOpened(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	url := w.URL(world.WWW, "/")
	for name, line := range map[string]string{
		"curl":   "curl -sS -o /dev/null -w '%{http_code}' " + url,
		"python": "python3 -c 'import urllib.request; print(urllib.request.urlopen(\"" + url + "\").status)'",
		"node":   "node -e 'fetch(\"" + url + "\").then(r => console.log(r.status))'",
		"git":    "git -c protocol.version=0 ls-remote -q " + w.URL(world.Git, "/demo.git") + " HEAD | sed s/.*HEAD/200/", // it asks by GET alone
	} {
		if got := sh(t, sb, line+" 2>&1 || true"); got != "200" {
			t.Errorf("%s: %s", name, got)
		}
	}
	w.Reset()
	got := sh(t, sb, "curl -sS -X POST -d secret "+url)
	if !strings.Contains(got, "403 Forbidden") || !strings.Contains(got, "read-only") {
		t.Errorf("a denied method: %s", got)
	}
	if n := len(w.Requests("")); n != 0 {
		t.Errorf("%d requests got out", n)
	}
}

// issuer returns who signed what the guest is shown.
func issuer(t *testing.T, sb *smolvm.Sandbox, w *world.World) string {
	t.Helper()
	got := sh(t, sb, "curl -sSv -o /dev/null "+w.URL(world.WWW, "/")+" 2>&1 || true")
	if !strings.Contains(got, "smolvm sandbox ") || !strings.Contains(got, "verify ok") {
		t.Fatalf("the guest was shown: %s", got)
	}
	_, name, _ := strings.Cut(got, "smolvm sandbox ")
	return strings.Fields(name)[0]
}

// noKeys wants keys of authorities in sandboxes' own directories alone.
func noKeys(t *testing.T, home string) {
	t.Helper()
	found := 0
	for _, pattern := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
		files, err := filepath.Glob(filepath.Join(home, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			st, err := os.Lstat(f)
			if err != nil || !st.Mode().IsRegular() || st.Size() > 1<<20 {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil || !strings.Contains(string(b), "-----BEGIN PRIVATE KEY-----") {
				continue
			}
			found++
			if filepath.Base(f) != "ca.pem" || filepath.Base(filepath.Dir(filepath.Dir(f))) != "sandboxes" || st.Mode().Perm() != 0o600 {
				t.Errorf("a key in %s, %v", f, st.Mode())
			}
		}
	}
	if found == 0 {
		t.Error("no key was found where one must be")
	}
}
