package network

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// asking is World.Allow with another action.
func asking(w *world.World, names ...string) api.Rule {
	r := w.Allow(names...)
	r.ID, r.Action = "new", api.PolicyAsk
	return r
}

func event(t *testing.T, events <-chan api.FlowEvent, kind api.FlowEventKind) api.FlowEvent {
	t.Helper()
	deadline := time.After(long)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("no more events before %s", kind)
			}
			if e.Kind == kind {
				return e
			}
		case <-deadline:
			t.Fatalf("no event %s", kind)
		}
	}
}

// begin fetches a page and tells how it ended.
func (s *sandbox) begin(t *testing.T, w *world.World, url string) <-chan error {
	done := make(chan error, 1)
	c := s.client(t, w.CA)
	go func() {
		r, err := c.Get(url)
		if err == nil {
			r.Body.Close()
		}
		done <- err
	}()
	return done
}

func owner(_ context.Context, f netstack.Flow) (api.NetworkProcess, error) {
	return api.NetworkProcess{PID: 7, Argv: []string{"curl", f.Dst.String()}}, nil
}

func TestAskOnce(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{Owner: owner}, asking(w, world.WWW))
	events, stop := s.Watch()
	defer stop()
	done := s.begin(t, w, w.URL(world.WWW, "/"))
	q := event(t, events, api.FlowPending).Flow
	if q.Proto != "dns" || q.Host != world.WWW || q.Rule != "new" || w.Questions(world.WWW) != 0 {
		t.Errorf("asked first: %+v, %d questions got out", q, w.Questions(world.WWW))
	}
	if _, err := s.Answer(api.FlowAnswer{ID: q.ID, Allow: true}); err != nil {
		t.Fatal(err)
	}
	f := event(t, events, api.FlowPending).Flow
	if f.Proto != "tcp" || f.Host != world.WWW || f.Port != w.HTTPS || f.PID != 7 || len(f.Argv) != 2 {
		t.Errorf("asked then: %+v", f)
	}
	if got := s.Pending(); len(got) != 1 || got[0].ID != f.ID || got[0].Flows != 1 {
		t.Errorf("pending: %+v", got)
	}
	if rule, err := s.Answer(api.FlowAnswer{ID: f.ID, Allow: true, For: api.AnswerOnce}); rule != nil || err != nil {
		t.Fatal(rule, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := s.Policy().Document().Rules; len(got) != 1 {
		t.Errorf("the policy became %+v", got)
	}
	a := s.book.kind(t, api.EventAnswer, api.PolicyAllow)
	if a.Ask == "" || a.Code != "answer" || a.Reason == "" {
		t.Errorf("answer: %+v", a)
	}
	e := s.book.kind(t, api.EventFlow, api.PolicyAllow)
	if e.Host != world.WWW || e.Process == nil || e.Process.PID != 7 || e.Rule == "" {
		t.Errorf("flow: %+v", e)
	}
	if _, err := s.Answer(api.FlowAnswer{ID: f.ID, Allow: true}); api.ClassOf(err) != api.NotFound {
		t.Errorf("a second answer: %v", err)
	}
}

func TestAskIsAnsweredByRule(t *testing.T) {
	for _, test := range []struct {
		how   string
		allow bool
	}{{api.AnswerSandbox, true}, {api.AnswerPattern, true}, {api.AnswerPattern, false}} {
		t.Run(test.how, func(t *testing.T) {
			w := world.Start(t)
			kept := make(chan api.Policy, 1)
			s := start(t, w, Config{Changed: func(p api.Policy) { kept <- p }}, asking(w, world.WWW))
			events, stop := s.Watch()
			defer stop()
			first, second := s.begin(t, w, w.PlainURL(world.WWW, "/")), s.begin(t, w, w.PlainURL(world.WWW, "/"))
			q := event(t, events, api.FlowPending).Flow
			rule, err := s.Answer(api.FlowAnswer{ID: q.ID, Allow: test.allow, For: test.how})
			if err != nil || rule == nil || rule.Domains[0] != world.WWW {
				t.Fatalf("%+v, %v", rule, err)
			}
			if got := (<-kept).Rules; len(got) != 2 || got[0].ID != rule.ID {
				t.Errorf("kept: %+v", got)
			}
			if !test.allow {
				for _, done := range []<-chan error{first, second} {
					if err := <-done; err == nil || !strings.Contains(err.Error(), "no such host") {
						t.Errorf("denied for good: %v", err)
					}
				}
				return
			}
			// The rule is for the web's usual ports or for all; the server's address is
			// closed but for rules that name it, so these flows are asked about again.
			for len(s.Pending()) > 0 {
				for _, p := range s.Pending() {
					if _, err := s.Answer(api.FlowAnswer{ID: p.ID, Allow: true, For: test.how}); err != nil && api.ClassOf(err) != api.NotFound {
						t.Fatal(err)
					}
				}
			}
			go func() {
				for e := range events {
					if e.Kind == api.FlowPending {
						_, _ = s.Answer(api.FlowAnswer{ID: e.Flow.ID, Allow: true, For: test.how})
					}
				}
			}()
			for _, done := range []<-chan error{first, second} {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestAskOfRequests(t *testing.T) {
	w := world.Start(t)
	ca := openCA(t)
	writes := w.Allow(world.WWW)
	writes.ID, writes.Action, writes.Methods = "writes", api.PolicyAsk, []string{"POST"}
	reads := w.Allow(world.WWW)
	reads.ID, reads.Methods = "reads", []string{"GET"}
	s := start(t, w, Config{CA: ca, Owner: owner}, writes, reads)
	c := s.client(t, ca.PEM())
	if status, _, err := get(t, c, w.URL(world.WWW, "/")); status != 200 || err != nil {
		t.Fatalf("GET: %d, %v", status, err)
	}
	events, stop := s.Watch()
	defer stop()
	type result struct {
		status int
		err    error
	}
	post := func() <-chan result {
		done := make(chan result, 1)
		go func() {
			r, err := c.Post(w.URL(world.WWW, "/echo?x=1"), "text/plain", strings.NewReader("body"))
			if err != nil {
				done <- result{0, err}
				return
			}
			r.Body.Close()
			done <- result{r.StatusCode, nil}
		}()
		return done
	}
	for _, allow := range []bool{true, false} {
		done := post()
		q := event(t, events, api.FlowPending).Flow
		if q.Method != "POST" || q.Path != "/echo?x=1" || q.Host != world.WWW || q.PID != 7 {
			t.Errorf("asked: %+v", q)
		}
		if _, err := s.Answer(api.FlowAnswer{ID: q.ID, Allow: allow}); err != nil {
			t.Fatal(err)
		}
		want := map[bool]int{true: 200, false: 403}[allow]
		if r := <-done; r.status != want || r.err != nil {
			t.Errorf("allow %v: %+v", allow, r)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{Spec: api.Network{AskSeconds: 0.3}}, asking(w, world.WWW))
	events, stop := s.Watch()
	defer stop()
	if err := <-s.begin(t, w, w.URL(world.WWW, "/")); err == nil {
		t.Error("it went out")
	}
	event(t, events, api.FlowExpired)
	a := s.book.kind(t, api.EventAnswer, api.PolicyDeny)
	if a.Code != "no_answer" || !strings.Contains(a.Reason, "300ms") {
		t.Errorf("answer: %+v", a)
	}
	if n := s.Stats().Held; n != 0 {
		t.Errorf("%d are still held", n)
	}
}

func TestTheGuestGivesUp(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, asking(w, world.WWW))
	events, stop := s.Watch()
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	req := egress.Request{Protocol: egress.DNS, Question: world.WWW, Type: "A"}
	s.asks.join(ctx, nil, req, s.decide(req, nil), func(v verdict) { t.Errorf("answered: %+v", v) })
	event(t, events, api.FlowPending)
	cancel()
	if got := event(t, events, api.FlowGone).Flow; got.Flows != 0 {
		t.Errorf("gone: %+v", got)
	}
	s.book.wait(t, "the end of the question", func(e api.NetworkEntry) bool { return e.Kind == api.EventAnswer && e.Code == "gone" })
}

func TestCloseEndsQuestionsAndWatches(t *testing.T) {
	w := world.Start(t)
	s := start(t, w, Config{}, asking(w, world.WWW))
	events, stop := s.Watch()
	defer stop()
	done := s.begin(t, w, w.URL(world.WWW, "/"))
	event(t, events, api.FlowPending)
	s.Close()
	s.Close()
	event(t, events, api.FlowGone)
	for range events {
		t.Error("an event after the end")
	}
	if after, stop := s.Watch(); true {
		if _, ok := <-after; ok {
			t.Error("a watch after the end")
		}
		stop()
	}
	if s.book.count(api.EventStart) != 1 || s.book.count(api.EventStop) != 1 {
		t.Errorf("starts and stops: %+v", s.book.entries)
	}
	_ = done // its guest has no network any more
}

// TestNoRuleForAnOddPath asks about a path that rules cannot spell. An answer for the
// sandbox must not open the others.
func TestNoRuleForAnOddPath(t *testing.T) {
	w := world.Start(t)
	writes := w.Allow(world.WWW)
	writes.Action, writes.Methods = api.PolicyAsk, []string{"GET"}
	reads := w.Allow(world.WWW) // the name can be found without a question
	reads.Methods = []string{"HEAD"}
	s := start(t, w, Config{}, writes, reads)
	for _, path := range []string{"/a%2fb", "/a%20b"} {
		events, stop := s.Watch()
		done := s.begin(t, w, w.PlainURL(world.WWW, path))
		q := event(t, events, api.FlowPending).Flow
		if rule, err := s.Answer(api.FlowAnswer{ID: q.ID, Allow: true, For: api.AnswerSandbox}); api.ClassOf(err) != api.Invalid {
			t.Errorf("%s: %+v, %v", path, rule, err)
		}
		if _, err := s.Answer(api.FlowAnswer{ID: q.ID, Allow: true}); err != nil {
			t.Errorf("%s once: %v", path, err)
		}
		<-done
		stop()
	}
	if n := len(s.Policy().Document().Rules); n != 2 {
		t.Errorf("%d rules", n)
	}
}
