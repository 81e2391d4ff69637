package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// httpGate is a gateway, a process of its own, and what reaches a sandbox by it.
type httpGate struct {
	dir, socket, url, key string
	id, base              string // of the sandbox; base is the address of its routes
	cmd                   *exec.Cmd
	web                   *http.Client
	drop                  func() // the key
}

func serveHTTP(ctx context.Context, b *suite, id string) (_ *httpGate, err error) {
	dir, err := os.MkdirTemp("", "bench-http-")
	if err != nil {
		return nil, err
	}
	g := &httpGate{dir: dir, socket: filepath.Join(dir, "s"), id: id, base: "http://smolvm/v1/sandboxes/" + id}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	keys := apikey.Open(b.floor.Store.APIKeys())
	k, token, err := keys.Create(apikey.Options{Scope: apikey.Run, TTL: time.Hour})
	if err != nil {
		return nil, err
	}
	g.key, g.drop = token, func() { keys.Revoke(k.ID) }
	g.cmd = exec.CommandContext(ctx, b.binary, "serve", "--socket", g.socket, "--listen", "127.0.0.1:0", "--json")
	g.cmd.Cancel = func() error { return g.cmd.Process.Signal(os.Interrupt) }
	g.cmd.Stderr = os.Stderr
	said, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	var ready struct {
		URLs []string `json:"urls"`
	}
	if err := json.NewDecoder(said).Decode(&ready); err != nil {
		return nil, fmt.Errorf("smolvm serve: %w", err)
	}
	for _, u := range ready.URLs {
		if strings.HasPrefix(u, "http://") {
			g.url = u
		}
	}
	g.web = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.socket)
	}}}
	return g, nil
}

func (g *httpGate) close() {
	if g.cmd != nil && g.cmd.Process != nil {
		_ = g.cmd.Process.Signal(os.Interrupt)
		_ = g.cmd.Wait()
	}
	if g.drop != nil {
		g.drop()
	}
	os.RemoveAll(g.dir)
}

func (g *httpGate) sdk(ctx context.Context, c *smolvm.Client) (*smolvm.Sandbox, error) {
	return c.Get(ctx, g.id)
}

// send sends a request and returns an answer of success.
func (g *httpGate) send(ctx context.Context, method, url string, body []byte, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", accept)
	res, err := g.web.Do(req)
	if err == nil && res.StatusCode >= http.StatusBadRequest {
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		return nil, fmt.Errorf("%s: %s", res.Status, b)
	}
	return res, err
}

// whole sends a request and reads all of the answer, of a size if that is not zero.
func (g *httpGate) whole(ctx context.Context, method, url string, body []byte, size int64) error {
	res, err := g.send(ctx, method, url, body, "*/*")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return drain(res.Body, size)
}

// drain reads all, of a size if that is not zero.
func drain(r io.Reader, size int64) error {
	n, err := io.Copy(io.Discard, r)
	if err == nil && size != 0 && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (g *httpGate) postTrue(ctx context.Context) error {
	res, err := g.send(ctx, http.MethodPost, g.base+"/exec", []byte(`{"argv":["/bin/true"]}`), "application/json")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var got api.ExecResult
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body) // to the end, that the connection is kept
	if err == nil && got.ExitCode != 0 {
		err = fmt.Errorf("exit status %d", got.ExitCode)
	}
	return err
}

// echo is a command whose first byte is waited for.
var echo = []string{"/bin/echo", "x"}

func firstOfSDK(ctx context.Context, sb *smolvm.Sandbox) (took time.Duration, err error) {
	first := firstWrite{began: time.Now()}
	_, err = sb.Run(ctx, smolvm.Command{Argv: echo, Stdout: &first})
	if err == nil && first.took == 0 {
		err = io.ErrUnexpectedEOF
	}
	return first.took, err
}

// firstWrite notes when the first bytes came.
type firstWrite struct {
	began time.Time
	took  time.Duration
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if f.took == 0 {
		f.took = time.Since(f.began)
	}
	return len(p), nil
}

func (g *httpGate) firstOfEvents(ctx context.Context) (took time.Duration, err error) {
	began := time.Now()
	body, err := json.Marshal(api.Exec{Argv: echo})
	if err != nil {
		return 0, err
	}
	res, err := g.send(ctx, http.MethodPost, g.base+"/exec", body, "text/event-stream")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if took == 0 && lines.Text() == "event: "+string(api.ExecStdout) {
			took = time.Since(began)
		}
	}
	if took == 0 {
		err = io.ErrUnexpectedEOF
	}
	return took, err
}

func (g *httpGate) firstOfSocket(ctx context.Context) (took time.Duration, err error) {
	began := time.Now()
	c, _, err := websocket.Dial(ctx, g.base+"/exec/ws", &websocket.DialOptions{HTTPClient: g.web, Subprotocols: []string{"smolvm.exec.v1"}})
	if err != nil {
		return 0, err
	}
	defer c.CloseNow()
	body, err := json.Marshal(api.Exec{Argv: echo})
	if err != nil {
		return 0, err
	}
	if err := c.Write(ctx, websocket.MessageText, body); err != nil {
		return 0, err
	}
	for {
		kind, _, err := c.Read(ctx)
		switch {
		case took == 0 && err == nil && kind == websocket.MessageBinary:
			took = time.Since(began)
		case websocket.CloseStatus(err) == websocket.StatusNormalClosure && took > 0:
			return took, nil
		case err != nil:
			return 0, err
		}
	}
}

// pyTurn is a program that runs a command for each line that it reads, and prints
// the nanoseconds that it took.
const pyTurn = `
import sys, time, smolvm
vm = smolvm.SmolVM.from_id(sys.argv[1])
for _ in sys.stdin:
    start = time.perf_counter_ns()
    assert vm.run(["/bin/true"]).exit_code == 0
    print(time.perf_counter_ns() - start, flush=True)
`

// pyWay is a Python program at work.
type pyWay struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (g *httpGate) python(ctx context.Context) (*pyWay, error) {
	p := &pyWay{cmd: exec.CommandContext(ctx, "python3", "-c", pyTurn, g.id)}
	p.cmd.Env = append(os.Environ(), "PYTHONPATH=python/src", "PYTHONDONTWRITEBYTECODE=1", "SMOLVM_URL=unix://"+g.socket)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

func (p *pyWay) turn(context.Context) (time.Duration, error) {
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		return 0, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return 0, errors.Join(errors.New("python3 has ended"), err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return time.Duration(ns), err
}

func (p *pyWay) close() {
	p.in.Close()
	_ = p.cmd.Wait()
}
