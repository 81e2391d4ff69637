package smolvm_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/gateway"
)

// unixGateway serves the sandboxes of c over a Unix socket, and returns a client of it.
func unixGateway(t *testing.T, c *smolvm.Client) *http.Client {
	t.Helper()
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- gateway.New(gateway.Options{Client: *c}).Serve(ctx, l) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &http.Client{Transport: tr}
}

// begin starts a command over HTTP whose events are read from the answer.
func begin(ctx context.Context, c *http.Client, sb *smolvm.Sandbox, e api.Exec) (*http.Response, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "http://smolvm/v1/sandboxes/"+sb.ID()+"/exec", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/x-ndjson")
	return c.Do(req)
}

// TestVMExecStreams has 100 commands at once in one sandbox over HTTP, each with its
// own bytes. Then as many clients go away in the middle: nothing of theirs runs on.
func TestVMExecStreams(t *testing.T) {
	c := client(t)
	sb := sandbox(t, c, smolvm.Spec{})
	web := unixGateway(t, c)
	const n = 100
	all := make(chan struct{}) // closed when every command has started
	var started, ended sync.WaitGroup
	started.Add(n)
	for i := range n {
		ended.Go(func() {
			want := fmt.Sprintf("%d\xff\x00\n", i)
			e := api.Exec{Argv: []string{"cat"}, Encoding: api.EncodingBase64, Stdin: base64.StdEncoding.EncodeToString([]byte(want))}
			res, err := begin(t.Context(), web, sb, e)
			started.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			<-all
			if out, last := follow(res); out != want || last.Type != api.ExecExit || last.Ended.ExitCode != 0 {
				t.Errorf("%q, %+v", out, last)
			}
		})
	}
	started.Wait()
	close(all)
	ended.Wait()

	ctx, leave := context.WithCancel(t.Context())
	for range n {
		ended.Go(func() {
			res, err := begin(ctx, web, sb, api.Exec{Argv: []string{"sleep", "7777"}})
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			<-ctx.Done()
		})
	}
	sleeping := func() int {
		list, err := sb.GuestProcesses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, p := range list {
			if strings.Join(p.Argv, " ") == "sleep 7777" {
				count++
			}
		}
		return count
	}
	eventually(t, func() bool { return sleeping() == n })
	leave()
	ended.Wait()
	eventually(t, func() bool { return sleeping() == 0 })
}

// follow reads events in base64 to their end.
func follow(res *http.Response) (out string, last api.ExecEvent) {
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		last = api.ExecEvent{}
		if json.Unmarshal(lines.Bytes(), &last) != nil {
			break
		}
		b, _ := base64.StdEncoding.DecodeString(last.Data)
		out += string(b)
	}
	return out, last
}
