package smolvm_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

const realKey = "sk-real-8c1f0d2b7e64a953"

// TestVMSecrets has a guest use a secret that it never sees.
func TestVMSecrets(t *testing.T) {
	w := world.Start(t)
	t.Setenv("SSL_CERT_FILE", w.CAFile)
	t.Setenv("KEY", realKey)
	c := client(t)
	n := worldNetwork(w, world.WWW, world.Git)
	n.Log = api.NetworkLogHTTP
	sb := sandbox(t, c, smolvm.Spec{Name: "secrets", Network: n, Secrets: []smolvm.Secret{
		{Name: "KEY", Hosts: []string{world.WWW}, Value: realKey},
	}})
	list := must[[]smolvm.SecretStatus](t)(sb.Secrets(t.Context()))
	placeholder := list[0].Placeholder
	if got := sh(t, sb, "echo $KEY"); got != placeholder {
		t.Fatalf("the guest has %q", got)
	}
	// A process that keeps it in memory.
	must[api.Process](t)(sb.Background(t.Context(), smolvm.ShellCommand("exec sleep 1000")))
	t.Run("to its host", func(t *testing.T) { testSecretUsed(t, w, sb) })
	t.Run("elsewhere", func(t *testing.T) { testSecretElsewhere(t, w, sb, placeholder) })
	t.Run("in nothing that is kept", func(t *testing.T) { testSecretNotKept(t, c, sb, placeholder) })
	t.Run("in bodies", func(t *testing.T) { // last: the server sends it back
		for kind, want := range map[string]string{"application/json": `{"k":"` + realKey + `"}`, "text/plain": `{"k":"` + realKey + `"}`} {
			got := sh(t, sb, `curl -sS -H 'Content-Type: `+kind+`' -d '{"k":"'$KEY'"}' `+w.URL(world.WWW, "/echo"))
			if got != want {
				t.Errorf("%s: %q", kind, got)
			}
			got = sh(t, sb, `printf '{"k":"%s"}' $KEY | curl -sS -T - -X POST -H 'Content-Type: `+kind+`' `+w.URL(world.WWW, "/echo"))
			if got != want {
				t.Errorf("%s in chunks: %q", kind, got)
			}
		}
	})
	t.Run("gone with its supervisor", func(t *testing.T) { testSecretGone(t, w, sb) })
}

// testSecretUsed looks at what the secret's own host got.
func testSecretUsed(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	for _, proto := range []string{"--http1.1", "--http2"} {
		w.Reset()
		sh(t, sb, `curl -sS `+proto+` -H "Authorization: Bearer $KEY" "`+w.URL(world.WWW, "/status/200?key=$KEY&x=1")+`"`)
		sh(t, sb, `curl -sS `+proto+` -u "user:$KEY" `+w.URL(world.WWW, "/status/200"))
		got := w.Requests(world.WWW)
		if len(got) != 2 {
			t.Fatalf("%s: %d requests", proto, len(got))
		}
		if a := got[0].Header.Get("Authorization"); a != "Bearer "+realKey || got[0].Path != "/status/200?key="+realKey+"&x=1" {
			t.Errorf("%s: %s, %s", proto, a, got[0].Path)
		}
		if a := got[1].Header.Get("Authorization"); a != "Basic "+base64.StdEncoding.EncodeToString([]byte("user:"+realKey)) {
			t.Errorf("%s: %s", proto, a)
		}
	}
}

// testSecretElsewhere sends it where it has no business: unencrypted, and to another
// host. There the placeholder comes, and alarms are recorded.
func testSecretElsewhere(t *testing.T, w *world.World, sb *smolvm.Sandbox, placeholder string) {
	w.Reset()
	sh(t, sb, `curl -sS -o /dev/null -H "X-Key: $KEY" `+w.PlainURL(world.WWW, "/status/200"))
	sh(t, sb, `curl -sS -o /dev/null -H "X-Key: $KEY" `+w.URL(world.Git, "/"))
	got := w.Requests("")
	if len(got) != 2 {
		t.Fatalf("%d requests", len(got))
	}
	for _, r := range got {
		if r.Header.Get("X-Key") != placeholder {
			t.Errorf("%s got %q", r.Host, r.Header.Get("X-Key"))
		}
	}
	alarms, uses := map[string]int{}, 0
	err := sb.NetworkLog(t.Context(), smolvm.NetworkLogOptions{}, func(e smolvm.NetworkEntry) error {
		b, err := json.Marshal(e)
		if err != nil || bytes.Contains(b, []byte(realKey)) {
			t.Errorf("%s, %v", b, err)
		}
		if len(e.Secrets) == 1 && e.Secrets[0] == "KEY" {
			switch e.Kind {
			case api.EventAlarm:
				alarms[e.HTTP.Scheme+" "+e.Host]++
			case api.EventHTTP:
				uses++
			}
		}
		return nil
	})
	if err != nil || alarms["http "+world.WWW] != 1 || alarms["https "+world.Git] != 1 || len(alarms) != 2 || uses != 4 {
		t.Errorf("alarms %v, %d uses, %v", alarms, uses, err)
	}
}

// testSecretNotKept saves the sandbox in every way and looks for the value in all
// that is there, guest memory included: the placeholder is found in it.
func testSecretNotKept(t *testing.T, c *smolvm.Client, sb *smolvm.Sandbox, placeholder string) {
	must[smolvm.Step](t)(sb.Checkpoint(t.Context(), smolvm.Checkpoint{}))
	must[smolvm.Snapshot](t)(sb.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "with-secret"}))
	t.Cleanup(func() { c.RemoveSnapshot(t.Context(), "with-secret") })
	found := map[string][]string{}
	err := filepath.WalkDir(c.Home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		for _, text := range []string{realKey, placeholder} {
			if in, err := inFile(path, text); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if in {
				found[text] = append(found[text], path)
			}
		}
		return nil
	})
	if err != nil || len(found[realKey]) > 0 {
		t.Errorf("the value is in %v, %v", found[realKey], err)
	}
	if !strings.Contains(strings.Join(found[placeholder], " "), "delta-") {
		t.Errorf("the placeholder is in %v: what looks for the value does not see guest memory", found[placeholder])
	}
}

// inFile reports whether a text is in a file, which may be mostly a hole.
func inFile(path, text string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n, err := f.ReadAt(buf, start)
		if bytes.Contains(buf[:n], []byte(text)) {
			return true, nil
		}
		if err != nil { // the end
			return false, nil
		}
		at = start + int64(n-len(text)) // what spans two pieces too
	}
}

// testSecretGone stops the sandbox: requests that need the value are refused until it
// is set again.
func testSecretGone(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
		t.Fatal(err)
	}
	if err := sb.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Reset()
	ask := `curl -sS -w '%{http_code}' -H "Authorization: Bearer $KEY" ` + w.URL(world.WWW, "/status/200")
	if got := sh(t, sb, ask); !strings.HasSuffix(got, "502") || !strings.Contains(got, "KEY") || len(w.Requests("")) != 0 {
		t.Errorf("without a value: %s, %d requests", got, len(w.Requests("")))
	}
	must[smolvm.SecretStatus](t)(sb.SetSecret(t.Context(), smolvm.Secret{Name: "KEY", Value: realKey}))
	if got := sh(t, sb, ask); got != "200" {
		t.Errorf("with a value again: %s", got)
	}
	if got := w.Requests(world.WWW); len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer "+realKey {
		t.Errorf("%+v", got)
	}
}
