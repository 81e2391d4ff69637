package network

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/intercept"
	"github.com/smolvm/smolvm/internal/netstack"
)

func (n *Network) record(e api.NetworkEntry) {
	if e.Time.IsZero() {
		e.Time = n.cfg.Now().UTC()
	}
	n.cfg.Log.Record(e)
}

// recorder hears of the stack what it did. What was decided here is recorded here;
// the stack adds what it refuses by itself, and how flows ended.
type recorder struct{ *Network }

// Record implements netstack.Recorder.
func (n recorder) Record(e netstack.Event) {
	switch e.Kind {
	case netstack.EventQuestion:
		n.recordQuestion(e)
	case netstack.EventFlow:
		n.recordFlow(e)
	case netstack.EventEnd:
		n.recordEnd(e)
	case netstack.EventDrop:
		n.recordDrop(e)
	}
}

// recordDrop records packets that came to nothing before anybody was asked. The
// stack counts them, so that a flood is few entries.
func (n *Network) recordDrop(e netstack.Event) {
	entry := api.NetworkEntry{
		Kind: api.EventDrop, Verdict: api.PolicyDeny, Code: e.Reason, Reason: "The guest sent what does not pass its link: " + e.Reason + ".",
		Proto: string(e.Flow.Proto), Address: addrText(e.Flow.Dst.Addr()), Count: e.Count,
	}
	if e.Reason == overLimit {
		entry.Kind, entry.Reason = api.EventLimit, "More flows or questions at once than the network's bounds."
	}
	n.record(entry)
}

// overLimit is the stack's netstack.DropReason for flows beyond its bounds.
const overLimit = "limit"

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (n *Network) recordQuestion(e netstack.Event) {
	verdict := api.PolicyDeny
	if e.Verdict == netstack.Allow {
		verdict = api.PolicyAllow
	}
	n.record(api.NetworkEntry{
		Kind: api.EventDNS, Verdict: verdict, Rule: e.Rule, Code: n.codeOf(e.Question, verdict, e.Rule), Reason: e.Reason,
		Proto: egress.DNS, Host: e.Question.Name, Process: n.asker(e.Question),
		DNS: &api.NetworkDNS{Type: e.Question.Type, Result: e.Result, Addresses: texts(e.Addresses), Removed: texts(e.Removed)},
	})
}

// codeOf finds the code of a question's decision, which the stack does not carry.
// Where policy says something else than what was decided it was not policy.
func (n *Network) codeOf(q netstack.Question, verdict api.PolicyAction, rule string) string {
	d := n.decide(egress.Request{Protocol: egress.DNS, Question: q.Name, Type: q.Type}, nil)
	switch {
	case d.RuleID == rule && (d.Action == verdict || emptyAnswer(d, q.Type)):
		return string(d.Code)
	case d.Action == egress.Ask:
		return string(codeAnswer)
	}
	return codeStack
}

// codeStack is the code of what the stack refused by itself; the reason says why.
const codeStack = "network"

func texts(list []netip.Addr) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func (n *Network) recordFlow(e netstack.Event) {
	if e.Verdict != netstack.Deny {
		return // recorded when it was decided
	}
	f := n.flows.remove(e.Flow.ID)
	if f == nil { // the stack did not ask
		f = &flow{n: n, net: e.Flow, req: requestOf(e.Flow)}
	}
	f.settled(egress.Decision{Action: egress.Deny, RuleID: e.Rule, Code: codeStack, Why: e.Reason})
}

func (n *Network) recordEnd(e netstack.Event) {
	f := n.flows.remove(e.Flow.ID)
	if f == nil {
		f = &flow{n: n, net: e.Flow, req: requestOf(e.Flow), recorded: true}
	}
	if f.wasDenied() {
		return
	}
	f.settled(egress.Decision{Action: egress.Allow, RuleID: e.Rule, Code: codeStack, Why: e.Reason})
	entry := f.entry(api.EventEnd)
	entry.Verdict, entry.Reason, entry.Dialed = api.PolicyAllow, cmp.Or(f.end(), e.Reason), e.Dialed
	entry.Sent, entry.Received, entry.DurationMS = e.Sent, e.Received, ms(e.Duration)
	f.write(entry)
}

func requestOf(nf netstack.Flow) egress.Request {
	return egress.Request{Protocol: string(nf.Proto), Addr: nf.Dst.Addr(), Port: nf.Dst.Port(), Names: nf.Names}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// entry begins an entry about a flow.
func (f *flow) entry(kind api.NetworkEvent) api.NetworkEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return api.NetworkEntry{
		Time: f.n.cfg.Now().UTC(), Kind: kind, Flow: f.net.ID, Proto: string(f.net.Proto), Host: nameOf(f.req),
		Address: addrText(f.net.Dst.Addr()), Port: int(f.net.Dst.Port()), Process: f.process,
	}
}

// settled records what was decided about a flow, once.
func (f *flow) settled(d egress.Decision) {
	f.mu.Lock()
	again := f.recorded
	f.recorded = true
	if !again {
		f.denied = d.Action == egress.Deny
	}
	f.mu.Unlock()
	if again {
		return
	}
	if d.Action != egress.Deny {
		f.findOwnerMeanwhile()
	}
	e := f.entry(api.EventFlow)
	e.Verdict, e.Rule, e.Code, e.Reason = d.Action, d.RuleID, string(d.Code), d.Why
	f.write(e)
}

func (f *flow) isSettled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.recorded
}

func (f *flow) wasDenied() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.denied
}

// observe records an HTTP request.
func (f *flow) observe(x *intercept.Exchange) {
	e := f.entry(api.EventHTTP)
	e.Verdict, e.Rule, e.Code, e.Reason = api.PolicyDeny, x.Answer.Rule, x.Answer.Code, x.Answer.Why
	if x.Answer.Allow {
		e.Verdict = api.PolicyAllow
	}
	if x.Err != "" {
		e.Reason = x.Err
	}
	e.Secrets, e.Sent, e.Received, e.DurationMS = x.Secrets, x.Up, x.Down, ms(x.Took)
	r := &x.Request
	e.HTTP = &api.NetworkHTTP{
		Method: r.Method, Scheme: r.Scheme, Host: r.Host, Path: r.Path, Version: r.Proto, Status: x.Status,
		RequestType: r.Header.Get("Content-Type"), ResponseType: x.Type, WaitMS: ms(x.FirstByte),
	}
	f.write(e)
}

func (n *Network) recordAsk(q *ask, f *flow, shown api.PendingFlow) {
	e := n.askEntry(q, api.EventAsk, f)
	e.Ask, e.Verdict, e.Rule, e.Code, e.Reason = shown.ID, api.PolicyAsk, q.decided.RuleID, string(q.decided.Code), q.decided.Why
	if shown.PID != 0 {
		e.Process = &api.NetworkProcess{PID: shown.PID, Argv: shown.Argv}
	}
	n.record(e)
}

func (n *Network) recordAnswer(q *ask, v verdict) {
	e := n.askEntry(q, api.EventAnswer, nil)
	e.Ask, e.Verdict, e.Rule, e.Code, e.Reason = v.ask, api.PolicyDeny, v.rule, string(v.code), v.reason
	if v.allow {
		e.Verdict = api.PolicyAllow
	}
	n.record(e)
}

func (n *Network) askEntry(q *ask, kind api.NetworkEvent, f *flow) api.NetworkEntry {
	e := api.NetworkEntry{Kind: kind, Proto: q.req.Protocol, Host: nameOf(q.req), Address: addrText(q.req.Addr), Port: int(q.req.Port)}
	if f != nil {
		e.Flow = f.net.ID
	}
	if h := q.req.HTTP; h != nil {
		e.HTTP = &api.NetworkHTTP{Method: h.Method, Host: h.Host, Path: h.Path}
	}
	return e
}
