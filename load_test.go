package smolvm_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/testenv"
)

// served is a gateway in a process of its own, and a client of it over TCP.
type served struct {
	*testing.T
	home, url, key string
	web            *http.Client
}

func serveTCP(t *testing.T, c *smolvm.Client) *served {
	t.Helper()
	s := must[store.Store](t)(store.Open(c.Home))
	_, key, err := apikey.Open(s.APIKeys()).Create(apikey.Options{Scope: apikey.Manage})
	if err != nil {
		t.Fatal(err)
	}
	g := &served{T: t, home: c.Home, key: key, web: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	cmd := exec.Command(c.Binary, "serve", "--listen", "127.0.0.1:0", "--json")
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+c.Home)
	cmd.Stderr = os.Stderr
	said := must[io.ReadCloser](t)(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.web.CloseIdleConnections()
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	var ready struct {
		URLs []string `json:"urls"`
	}
	if err := json.NewDecoder(said).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(ready.URLs, func(u string) bool { return strings.HasPrefix(u, "http://") })
	if i < 0 {
		t.Fatalf("no address in %q", ready.URLs)
	}
	g.url = ready.URLs[i]
	return g
}

// ask sends a request, and reads its answer of success into out; nil: as text.
func (g *served) ask(method, path string, in, out any) (text string, err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(g.Context(), method, g.url+path, bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+g.key)
	res, err := g.web.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err = io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	if err != nil || out == nil {
		return string(b), err
	}
	return "", json.Unmarshal(b, out)
}

// load is what a gateway and its sandboxes hold.
type load struct{ goroutines, descriptors, processes, sandboxes, files int }

// load counts, once the client's own connections are closed.
func (g *served) load() (l load) {
	g.Helper()
	g.web.CloseIdleConnections()
	text := must[string](g)(g.ask("GET", "/metrics", nil, nil))
	var list struct{ Sandboxes []api.Sandbox }
	if _, err := g.ask("GET", "/v1/sandboxes", nil, &list); err != nil {
		g.Fatal(err)
	}
	for line := range strings.Lines(text) {
		fmt.Sscanf(line, "go_goroutines %d", &l.goroutines)
		fmt.Sscanf(line, "process_open_fds %d", &l.descriptors)
	}
	if l.goroutines == 0 || l.descriptors == 0 {
		g.Fatalf("nothing is counted: %s", text)
	}
	l.processes, l.sandboxes, l.files = len(testenv.Processes(g.home)), len(list.Sandboxes), len(testenv.Files(g.home))
	return l
}

// settles waits until no more is held than before: connections take a moment to close.
func (g *served) settles(before load) {
	g.Helper()
	var now load
	defer func() { g.Logf("before %+v, after %+v", before, now) }()
	eventually(g, func() bool {
		now = g.load()
		return now.goroutines <= before.goroutines && now.descriptors <= before.descriptors &&
			now.processes == before.processes && now.sandboxes == before.sandboxes && now.files == before.files
	})
}

// TestVMLoad drives 20 sandboxes at once over HTTP, by a gateway in a process of its
// own. All answers are right, and afterwards it holds what it held before. The same
// when clients are killed in the middle of a stream.
func TestVMLoad(t *testing.T) {
	g := serveTCP(t, client(t))
	const execs = 20
	g.life(0, 1, func() {}) // makes the template, and opens what stays open
	before := g.load()
	t.Run("20 sandboxes", func(t *testing.T) {
		g := &served{t, g.home, g.url, g.key, g.web}
		const n = 20
		var all, ended sync.WaitGroup
		all.Add(n)
		start := time.Now()
		for i := range n {
			ended.Go(func() {
				g.life(i, execs, func() { // all run before one is removed
					all.Done()
					all.Wait()
				})
			})
		}
		ended.Wait()
		t.Logf("%d sandboxes with %d commands each in %v", n, execs, time.Since(start))
		g.settles(before)
	})
	t.Run("killed clients", func(t *testing.T) {
		g := &served{t, g.home, g.url, g.key, g.web}
		g.killed()
		g.settles(before)
	})
}

// life is of a sandbox: made, told commands, removed. full is called once it runs.
func (g *served) life(i, execs int, full func()) {
	full = sync.OnceFunc(full)
	defer full() // the others wait for it
	var sb api.Sandbox
	if _, err := g.ask("POST", "/v1/sandboxes", smolvm.Spec{MemoryMiB: 256}, &sb); err != nil {
		g.Error(err)
		return
	}
	full()
	at := "/v1/sandboxes/" + sb.ID
	for k := range execs {
		var res api.ExecResult
		want := fmt.Sprintf("%d of %d", k, i)
		_, err := g.ask("POST", at+"/exec", api.Exec{Command: fmt.Sprintf("cat; echo -n ' of %d'; exit %d", i, k), Stdin: fmt.Sprint(k)}, &res)
		if err != nil || res.Stdout != want || res.Stderr != "" || res.ExitCode != k {
			g.Errorf("sandbox %d, command %d: %v, %+v", i, k, err, res)
		}
	}
	if _, err := g.ask("DELETE", at, nil, nil); err != nil {
		g.Error(err)
	}
}

// reader is a client in a process of its own, which shows the body of an answer as
// it comes.
const reader = `
import sys, urllib.request
url, key, accept, body = sys.argv[1:]
req = urllib.request.Request(url, body.encode(), {
    "Authorization": "Bearer " + key, "Accept": accept, "Content-Type": "application/json"})
for line in urllib.request.urlopen(req):
    print(line.decode(), end="", flush=True)
`

// killed kills clients whose commands run: one that is silent and one that is not, on
// each kind of stream.
func (g *served) killed() {
	var sb api.Sandbox
	if _, err := g.ask("POST", "/v1/sandboxes", smolvm.Spec{MemoryMiB: 256}, &sb); err != nil {
		g.Fatal(err)
	}
	at := "/v1/sandboxes/" + sb.ID
	defer func() {
		if _, err := g.ask("DELETE", at, nil, nil); err != nil {
			g.Error(err)
		}
	}()
	for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
		for _, line := range []string{"exec sleep 7654", "exec cat /dev/zero"} {
			// A child too: all that the command started goes.
			body := must[[]byte](g)(json.Marshal(api.Exec{Command: "sleep 7654 & echo begun; " + line}))
			g.kill(exec.Command("python3", "-c", reader, g.url+at+"/exec", g.key, accept, string(body)))
			eventually(g, func() bool { return g.running(at) == 0 })
		}
	}
}

// kill starts a client and kills it once its command has begun.
func (g *served) kill(cmd *exec.Cmd) {
	g.Helper()
	cmd.Stderr = os.Stderr
	out := bufio.NewScanner(must[io.ReadCloser](g)(cmd.StdoutPipe()))
	out.Buffer(nil, 1<<20)
	if err := cmd.Start(); err != nil {
		g.Fatal(err)
	}
	defer cmd.Wait() // says that it was killed
	defer cmd.Process.Kill()
	for out.Scan() {
		if strings.Contains(out.Text(), "begun") {
			return
		}
	}
	g.Errorf("the command did not begin: %v", out.Err())
}

// running counts the commands of killed.
func (g *served) running(at string) (n int) {
	g.Helper()
	var list struct{ Processes []api.GuestProcess }
	if _, err := g.ask("GET", at+"/ps", nil, &list); err != nil {
		g.Fatal(err)
	}
	if len(list.Processes) == 0 {
		g.Fatal("no processes are listed")
	}
	for _, p := range list.Processes {
		if len(p.Argv) > 0 && (p.Argv[0] == "sleep" || p.Argv[0] == "cat") {
			n++
		}
	}
	return n
}
