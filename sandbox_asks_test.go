package smolvm_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// TestVMAsk has a guest wait for answers about where it may go.
func TestVMAsk(t *testing.T) {
	w := world.Start(t)
	t.Setenv("SSL_CERT_FILE", w.CAFile)
	ask := w.Allow(world.WWW, world.Git)
	ask.ID, ask.Action = "new", api.PolicyAsk
	spec := smolvm.Spec{Name: "asks", Network: api.Network{DNS: []string{w.DNS}, Policy: &api.Policy{Rules: []api.Rule{ask}}}}
	sb := sandbox(t, client(t), spec)
	events := watchFlows(t, sb)

	got := fetchMeanwhile(t, sb, w.URL(world.WWW, "/"))
	name := nextFlow(t, events, api.FlowPending).Flow
	if name.Proto != "dns" || name.Host != world.WWW || name.PID == 0 || !slices.Contains(name.Argv, "curl") {
		t.Errorf("asked first: %+v", name)
	}
	if w.Questions(world.WWW) != 0 || len(w.Requests("")) != 0 {
		t.Error("something got out before the answer")
	}
	if rule, err := sb.AnswerFlow(t.Context(), smolvm.FlowAnswer{ID: name.ID, Allow: true}); rule != nil || err != nil {
		t.Fatal(rule, err)
	}
	flow := nextFlow(t, events, api.FlowPending).Flow
	if flow.Proto != "tcp" || flow.Host != world.WWW || flow.Port != w.HTTPS || !slices.Contains(flow.Argv, "curl") {
		t.Errorf("asked then: %+v", flow)
	}
	rule, err := sb.AnswerFlow(t.Context(), smolvm.FlowAnswer{ID: flow.ID, Allow: true, For: api.AnswerSandbox})
	if err != nil || rule == nil {
		t.Fatal(rule, err)
	}
	if status := <-got; status != "200" {
		t.Errorf("after both answers: %q", status)
	}
	n := must[smolvm.Network](t)(sb.Network(t.Context()))
	if len(n.Policy.Rules) != 2 || n.Policy.Rules[0].ID != rule.ID {
		t.Errorf("kept: %+v", n.Policy)
	}
	reaches(t, sb, w.URL(world.WWW, "/")) // nobody is asked again

	got = fetchMeanwhile(t, sb, w.URL(world.Git, "/"))
	name = nextFlow(t, events, api.FlowPending).Flow
	if _, err := sb.AnswerFlow(t.Context(), smolvm.FlowAnswer{ID: name.ID, For: api.AnswerPattern}); err != nil {
		t.Fatal(err)
	}
	if status := <-got; !strings.Contains(status, "resolve host") {
		t.Errorf("after a no: %q", status)
	}
	reachesNot(t, w, sb, w.URL(world.Git, "/"))
	checkAskRecord(t, sb)
}

// watchFlows passes events on until the end of the test.
func watchFlows(t *testing.T, sb *smolvm.Sandbox) <-chan smolvm.FlowEvent {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan smolvm.FlowEvent, 100), make(chan struct{})
	go func() {
		defer close(done)
		_ = sb.WatchFlows(ctx, func(e smolvm.FlowEvent) error { events <- e; return nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return events
}

func nextFlow(t *testing.T, events <-chan smolvm.FlowEvent, kind api.FlowEventKind) smolvm.FlowEvent {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case e := <-events:
			if e.Kind == kind {
				return e
			}
		case <-deadline:
			t.Fatalf("no event %s", kind)
		}
	}
}

// fetchMeanwhile is fetch that waits for nothing.
func fetchMeanwhile(t *testing.T, sb *smolvm.Sandbox, url string) <-chan string {
	got := make(chan string, 1)
	line := fmt.Sprintf("curl -sS -k -m 60 -o /dev/null -w '%%{http_code}' %s 2>&1 || true", url)
	go func() {
		res, err := sb.Run(t.Context(), smolvm.ShellCommand(line))
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(res.Stdout)
	}()
	return got
}

// checkAskRecord looks for all that was asked and answered in the record.
func checkAskRecord(t *testing.T, sb *smolvm.Sandbox) {
	t.Helper()
	seen := map[string]int{}
	err := sb.NetworkLog(t.Context(), smolvm.NetworkLogOptions{}, func(e smolvm.NetworkEntry) error {
		seen[string(e.Kind)+" "+string(e.Verdict)]++
		if e.Verdict != "" && e.Reason == "" && e.Kind != api.EventEnd { // which is for how it failed
			t.Errorf("no reason: %+v", e)
		}
		return nil
	})
	if err != nil || seen["ask ask"] < 3 || seen["answer allow"] < 2 || seen["answer deny"] < 1 || seen["flow allow"] < 2 || seen["dns deny"] < 1 {
		t.Errorf("recorded %v, %v", seen, err)
	}
}
