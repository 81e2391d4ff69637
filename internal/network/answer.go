package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
)

// Answer answers a question of Pending: NotFound where it does not wait any more.
// It returns the rule that now stands first in the policy, or nil if the answer
// holds for those flows alone that wait.
func (n *Network) Answer(a api.FlowAnswer) (*api.Rule, error) {
	q, ok := n.asks.get(a.ID)
	if !ok {
		return nil, notWaiting(a.ID)
	}
	rule, err := n.ruleFor(q, a)
	if err != nil {
		return nil, err
	}
	switch a.For {
	case "", api.AnswerOnce:
		v := verdict{allow: a.Allow, code: codeAnswer, rule: q.decided.RuleID, reason: said(a)}
		if a.Allow {
			rule.ID = "once-" + a.ID
			v.once = &rule
		}
		if !n.asks.finish(q, v, api.FlowAnswered) {
			return nil, notWaiting(a.ID)
		}
		return nil, nil
	}
	return n.answerByRule(q, a, rule)
}

func notWaiting(id string) error {
	return api.Errorf(api.NotFound, "answer question %q: it does not wait", id).
		WithRecovery("See those that do with: smolvm network pending SANDBOX")
}

func said(a api.FlowAnswer) string {
	word := "denied"
	if a.Allow {
		word = "allowed"
	}
	return fmt.Sprintf("A person %s it (%s).", word, scope(a))
}

func scope(a api.FlowAnswer) string {
	if a.For == "" {
		return api.AnswerOnce
	}
	return a.For
}

// ruleFor returns the rule that an answer means.
func (n *Network) ruleFor(q *ask, a api.FlowAnswer) (egress.Rule, error) {
	rule, ok := egress.RuleFor(n.policy.Load(), n.host.get(), q.req)
	if !ok {
		return rule, api.Errorf(api.Internal, "answer question %q: there is no rule for it", a.ID)
	}
	if !a.Allow {
		rule.Action = egress.Deny
	}
	switch a.For {
	case "", api.AnswerOnce:
	case api.AnswerSandbox:
		if q.req.HTTP != nil && len(rule.Paths) == 0 { // else the guest's spelling of a path would open all of them
			return rule, api.Errorf(api.Invalid, "answer question %q for the sandbox: no rule is for this path alone", a.ID).
				WithRecovery("Answer for once, for the whole host with --for pattern, or write a rule: smolvm network set SANDBOX --add")
		}
	case api.AnswerPattern:
		rule.Methods, rule.Paths, rule.Ports, rule.Protocols = nil, nil, nil, nil
	default:
		return rule, api.Errorf(api.Invalid, "answer question %q: for %q is none of %s, %s and %s", a.ID, a.For,
			api.AnswerOnce, api.AnswerSandbox, api.AnswerPattern)
	}
	return rule, nil
}

// answerByRule puts a rule in front and lets policy answer.
func (n *Network) answerByRule(q *ask, a api.FlowAnswer, rule egress.Rule) (*api.Rule, error) {
	n.changes.Lock()
	defer n.changes.Unlock()
	old := n.policy.Load()
	rule.ID = freeID(old.Document(), a.Allow)
	rule.Note = strings.TrimSpace("answered " + n.cfg.Now().UTC().Format("2006-01-02 15:04:05Z"))
	policy, err := old.Insert(0, rule)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "answer question %q: %w", a.ID, err)
	}
	v := verdict{allow: a.Allow, code: codeAnswer, rule: rule.ID, reason: said(a)}
	n.policy.Store(policy)
	if !n.asks.finish(q, v, api.FlowAnswered) {
		n.policy.Store(old)
		return nil, notWaiting(a.ID)
	}
	n.setPolicy(policy)
	n.record(api.NetworkEntry{Kind: api.EventPolicy, Rule: rule.ID, Ask: a.ID, Reason: "An answer put a rule in front: " + said(a)})
	n.cfg.Changed(policy.Document())
	rule = policy.Document().Rules[0]
	return &rule, nil
}

// freeID returns an ID that no rule has.
func freeID(d api.Policy, allow bool) string {
	prefix := "denied"
	if allow {
		prefix = "approved"
	}
	for i := len(d.Rules) + 1; ; i++ {
		id := fmt.Sprintf("%s-%d", prefix, i)
		if !slices.ContainsFunc(d.Rules, func(r api.Rule) bool { return r.ID == id }) {
			return id
		}
	}
}

// answered turns the end of a question into what is decided about a flow that
// waited for it.
func (f *flow) answered(req egress.Request, asked egress.Decision, v verdict) egress.Decision {
	d := egress.Decision{Action: egress.Deny, Rule: -1, RuleID: v.rule, Code: v.code, Why: v.reason}
	if !v.allow {
		return d
	}
	now := f.decideWith(req, v.once)
	switch now.Action {
	case egress.Ask: // the answer was about something narrower
		d.Why = "It would have to be asked about again: " + asked.Why
		return d
	case egress.Allow:
		if v.code == codeAnswer {
			now.Code, now.Why = v.code, v.reason
		}
	}
	return now
}
