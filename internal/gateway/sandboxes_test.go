package gateway_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/testenv"
)

func TestLifeOfASandbox(t *testing.T) {
	d := open(t, gateway.Options{})
	var info api.Sandbox
	d.call(201, "POST", "/v1/sandboxes", api.Spec{Name: "web", Labels: map[string]string{"team": "a=b"}}, &info)
	if info.Name != "web" || info.State != api.StateRunning {
		t.Fatalf("%+v", info)
	}
	d.refused(d.send("POST", "/v1/sandboxes", api.Spec{Name: "web"}), 409, api.Conflict, "")
	for query, want := range map[string]int{
		"": 1, "?label=team%3Da%3Db": 1, "?label=team%3Dx": 0, "?state=running&state=stopped": 1, "?state=stopped": 0,
	} {
		var list gateway.SandboxList
		d.call(200, "GET", "/v1/sandboxes"+query, nil, &list)
		if len(list.Sandboxes) != want {
			t.Errorf("%s: %d sandboxes, want %d", query, len(list.Sandboxes), want)
		}
	}
	d.refused(d.send("GET", "/v1/sandboxes?state=nonsense", nil), 400, api.Invalid, "")
	for _, step := range []struct {
		verb string
		body any
		want api.State
	}{
		{"pause", nil, api.StatePaused}, {"pause", nil, api.StatePaused}, {"resume", nil, api.StateRunning},
		{"stop", api.Stop{GraceSeconds: -1}, api.StateStopped}, {"wait", nil, api.StateStopped}, {"start", nil, api.StateRunning},
		{"rename", gateway.Rename{Name: "other"}, api.StateRunning},
	} {
		d.call(200, "POST", "/v1/sandboxes/"+info.ID+"/"+step.verb, step.body, &info)
		if info.State != step.want {
			t.Errorf("%s: %s, want %s", step.verb, info.State, step.want)
		}
	}
	d.call(200, "GET", "/v1/sandboxes/other/stats", nil, &api.Stats{})
	res := d.send("GET", "/v1/sandboxes/other/console?tail=5", nil)
	d.answered(res, 200, nil)
	d.call(204, "DELETE", "/v1/sandboxes/other", nil, nil)
	d.refused(d.send("GET", "/v1/sandboxes/other", nil), 404, api.NotFound, "")
}

func TestProgressOfACreation(t *testing.T) {
	d := open(t, gateway.Options{})
	read := func(spec api.Spec) (steps int, last gateway.MadeLine) {
		res := d.send("POST", "/v1/sandboxes", spec, "Accept: application/x-ndjson")
		defer res.Body.Close()
		if res.StatusCode != 201 {
			b, _ := io.ReadAll(res.Body)
			t.Fatalf("%s: %s", res.Status, b)
		}
		for in := bufio.NewScanner(res.Body); in.Scan(); {
			last = gateway.MadeLine{}
			d.ok(json.Unmarshal(in.Bytes(), &last))
			if last.Progress != nil {
				steps++
			}
		}
		return steps, last
	}
	if steps, last := read(api.Spec{}); steps == 0 || last.Sandbox == nil || last.Sandbox.State != api.StateRunning {
		t.Errorf("%d steps, then %+v", steps, last)
	}
	// Refused before anything was written: with a status of its own.
	d.refused(d.send("POST", "/v1/sandboxes", api.Spec{CPUs: 1000}, "Accept: application/x-ndjson"), 400, api.Invalid, "")
}

func TestIdempotentCreation(t *testing.T) {
	d := open(t, gateway.Options{})
	ids := make([]string, 8)
	var replayed sync.Map
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var info api.Sandbox
			res := d.send("POST", "/v1/sandboxes", api.Spec{Labels: map[string]string{"n": "1"}}, "Idempotency-Key: once")
			if res.Header.Get("Idempotency-Replayed") == "true" {
				replayed.Store(i, true)
			}
			d.answered(res, 201, &info)
			ids[i] = info.ID
		})
	}
	wg.Wait()
	n := 0
	replayed.Range(func(any, any) bool { n++; return true })
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("ids %v", ids)
		}
	}
	if n != len(ids)-1 {
		t.Errorf("%d answers were of an earlier request, want %d", n, len(ids)-1)
	}
	d.refused(d.send("POST", "/v1/sandboxes", api.Spec{}, "Idempotency-Key: once"), 409, api.Conflict, "idempotency")
	// Another caller's key of the same text is another key.
	var other api.Sandbox
	d.answered(d.sendTCP("POST", "/v1/sandboxes", api.Spec{}, "Idempotency-Key: once"), 201, &other)
	if other.ID == ids[0] {
		t.Error("a caller got another's sandbox")
	}
	// What failed is tried again.
	d.refused(d.send("POST", "/v1/sandboxes", api.Spec{CPUs: 999}, "Idempotency-Key: bad"), 400, api.Invalid, "")
	d.call(201, "POST", "/v1/sandboxes", api.Spec{}, nil, "Idempotency-Key: bad")
}

// lease opens a lease; end ends its connection.
func (d *door) lease() (id string, end func()) {
	d.Helper()
	res := d.send("POST", "/v1/leases", nil)
	if res.StatusCode != 201 {
		d.Fatal(res.Status)
	}
	line, err := bufio.NewReader(res.Body).ReadBytes('\n')
	d.ok(err)
	var l api.Lease
	d.ok(json.Unmarshal(line, &l))
	return l.ID, func() { res.Body.Close() }
}

func TestEphemeralSandboxesEndWithTheirLease(t *testing.T) {
	d := open(t, gateway.Options{})
	spec := api.Spec{Ephemeral: true}
	d.refused(d.send("POST", "/v1/sandboxes", spec), 400, api.Invalid, "lease")
	d.refused(d.send("POST", "/v1/sandboxes", spec, "Smolvm-Lease: l-none"), 404, api.NotFound, "lease")
	id, end := d.lease()
	d.refused(d.send("POST", "/v1/sandboxes", api.Spec{}, "Smolvm-Lease: "+id), 400, api.Invalid, "lease")
	// Not another caller's.
	d.refused(d.sendTCP("POST", "/v1/sandboxes", spec, "Smolvm-Lease: "+id), 404, api.NotFound, "lease")
	for range 3 {
		d.call(201, "POST", "/v1/sandboxes", spec, nil, "Smolvm-Lease: "+id)
	}
	var kept, moved api.Sandbox
	d.call(201, "POST", "/v1/sandboxes", api.Spec{}, &kept)
	d.call(201, "POST", "/v1/sandboxes", spec, &moved, "Smolvm-Lease: "+id)
	second, endSecond := d.lease()
	d.call(200, "POST", "/v1/sandboxes/"+moved.ID+"/start", nil, nil, "Smolvm-Lease: "+second)
	var removed api.Sandbox
	d.call(201, "POST", "/v1/sandboxes", spec, &removed, "Smolvm-Lease: "+id)
	d.call(204, "DELETE", "/v1/sandboxes/"+removed.ID, nil, nil)
	if m := d.metrics(); !strings.Contains(m, "smolvm_leased_sandboxes 4\n") {
		t.Errorf("the leases hold one that was removed, or lack one: %s", m)
	}
	end()
	d.eventually("the sandboxes of the lease are removed", func() bool { return len(d.ids()) == 2 })
	endSecond()
	d.eventually("the sandbox that changed hands is removed", func() bool { return len(d.ids()) == 1 })
	if got := d.ids(); got[0] != kept.ID {
		t.Errorf("%v is left, want %s", got, kept.ID)
	}
}

func TestEndOfTheServer(t *testing.T) {
	d := open(t, gateway.Options{})
	id, end := d.lease()
	defer end()
	d.call(201, "POST", "/v1/sandboxes", api.Spec{Ephemeral: true}, nil, "Smolvm-Lease: "+id)
	var kept api.Sandbox
	d.call(201, "POST", "/v1/sandboxes", api.Spec{}, &kept)
	// A request under way may finish, or is told that the server ends.
	answered := make(chan *http.Response, 1)
	go func() { answered <- d.send("POST", "/v1/sandboxes/"+kept.ID+"/wait", nil) }()
	d.eventually("the request is under way", func() bool {
		return strings.Contains(d.metrics(), "smolvm_http_requests_under_way 3")
	})
	d.stop()
	d.refused(<-answered, 503, api.Unavailable, "")
	if got := d.ids(); len(got) != 1 || got[0] != kept.ID {
		t.Errorf("%v is left, want %s", got, kept.ID)
	}
	sb, err := d.Get(d.ctx, kept.ID)
	d.ok(err)
	if info, err := sb.Info(d.ctx); err != nil || info.State != api.StateRunning {
		t.Errorf("it is %s: %v", info.State, err)
	}
}

func TestClientGoneDuringACreation(t *testing.T) {
	d := open(t, gateway.Options{})
	d.fault("stall image")
	ctx, cancel := d.cancellable()
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://smolvm/v1/sandboxes", strings.NewReader("{}"))
		res, err := d.unix.Do(req)
		if err == nil {
			res.Body.Close()
			err = errors.New("it was answered")
		}
		failed <- err
	}()
	d.eventually("its making begins", func() bool { return d.exists("reached") })
	cancel()
	if err := <-failed; !errors.Is(err, ctx.Err()) {
		t.Error(err)
	}
	d.eventually("its processes end", func() bool { return len(testenv.Processes(d.Home)) == 0 })
	if got := d.ids(); len(got) > 0 {
		t.Errorf("%v is left", got)
	}
}

func TestLimitsOfKeys(t *testing.T) {
	d := open(t, gateway.Options{})
	d.token = d.key(apikey.Options{Scope: apikey.Read, Concurrent: 1})
	sb := d.create(smolvm.Spec{})
	answered := make(chan *http.Response, 1)
	go func() { answered <- d.sendTCP("POST", "/v1/sandboxes/"+sb.ID()+"/wait", nil) }()
	var refused *http.Response
	d.eventually("it has as much under way as it may", func() bool {
		refused = d.sendTCP("GET", "/v1/version", nil)
		if refused.StatusCode == 200 {
			refused.Body.Close()
		}
		return refused.StatusCode != 200
	})
	d.refused(refused, 429, api.Exhausted, "too_many_at_once")
	d.ok(sb.Stop(d.ctx, smolvm.StopOptions{GraceSeconds: -1}))
	d.answered(<-answered, 200, nil)
	d.eventually("it may go on", func() bool {
		res := d.sendTCP("GET", "/v1/version", nil)
		res.Body.Close()
		return res.StatusCode == 200
	})
	d.token = d.key(apikey.Options{Scope: apikey.Read, Rate: 2})
	n := 0
	for ; n < 100; n++ {
		res := d.sendTCP("GET", "/v1/version", nil)
		if res.StatusCode != 200 {
			if res.Header.Get("Retry-After") == "" {
				t.Error("it does not say when to try again")
			}
			d.refused(res, 429, api.Exhausted, "rate_limited")
			break
		}
		res.Body.Close()
	}
	if n < 4 || n > 50 {
		t.Errorf("%d requests were let through at once", n)
	}
}
