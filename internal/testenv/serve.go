package testenv

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Serve starts a gateway of a state directory, which ends with the test, and returns
// the URL of its Unix socket.
func Serve(t testing.TB, home string) string {
	t.Helper()
	// Elsewhere: what lies in the state directory is looked at.
	cmd := exec.Command(Binary(t), "serve", "--json", "--socket", filepath.Join(t.TempDir(), "api.sock"))
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+home)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait() // its status is that of a signal
		if t.Failed() {
			t.Logf("the gateway said: %s", log.Bytes())
		}
	})
	var ready struct {
		URLs []string `json:"urls"`
	}
	if err := json.NewDecoder(out).Decode(&ready); err != nil || len(ready.URLs) == 0 {
		t.Fatalf("start a gateway: %v, %+v", err, ready)
	}
	return ready.URLs[0]
}
