package egress

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

// TestParseErrors wants each text of testdata/errors.txt refused with a message
// that says where and what.
func TestParseErrors(t *testing.T) {
	text, err := os.ReadFile("testdata/errors.txt")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split("\n"+string(text), "\n== ")[1:]
	if len(sections) < 50 {
		t.Errorf("%d texts: the file has changed", len(sections))
	}
	for _, section := range sections {
		want, policy, _ := strings.Cut(section, "\n")
		_, err := Parse([]byte(policy), now)
		if err == nil {
			t.Errorf("%q is accepted:\n%s", want, policy)
			continue
		}
		if !strings.Contains(err.Error(), want) || !errors.Is(err, api.ErrInvalid) {
			t.Errorf("error %q\n want %q", err, want)
		}
	}
}

func TestParseBounds(t *testing.T) {
	many := func(n int, s string) string { return strings.Repeat(s, n) }
	for name, text := range map[string]string{
		"size":     "default: deny\n" + many(MaxBytes, "#"),
		"rules":    "rules:\n" + many(MaxRules+1, "- {action: deny}\n"),
		"list":     "rules:\n- action: deny\n  ports: [" + many(maxPerList, "1,") + "1]",
		"patterns": "rules:\n" + many(MaxRules, "- {action: allow, domains: ["+many(20, "a.b,")+"a.b]}\n"),
		"depth":    many(5000, "["),
		"note":     "rules:\n- {action: deny, note: " + many(maxNote+1, "x") + "}",
		"id":       "rules:\n- {action: deny, id: " + many(maxID+1, "x") + "}",
		"path":     "rules:\n- {action: deny, domains: [a.b], paths: [/" + many(maxPattern, "x") + "]}",
		"name":     "rules:\n- {action: deny, domains: [" + many(130, "a.") + "b]}",
		"label":    "rules:\n- {action: deny, domains: [" + many(64, "a") + ".b]}",
	} {
		if _, err := Parse([]byte(text), now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	full, err := New(Document{Rules: slices.Repeat([]Rule{{Action: Deny}}, MaxRules)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := full.Append(Rule{Action: Deny}); err == nil {
		t.Error("one rule more than there may be is accepted")
	}
}

// policies returns every policy of the corpus and the modes.
func policies(t testing.TB) []*Policy {
	t.Helper()
	var list []*Policy
	for _, m := range []string{ModeNone, ModePolicy, ModeOpen} {
		p, err := Mode(m)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	for _, text := range policyTexts(t) {
		p, err := Parse([]byte(text), now)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

func policyTexts(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/decisions/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no corpus", err)
	}
	var list []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range strings.Split("\n"+string(text), "\n== ")[1:] {
			_, body, _ := strings.Cut(section, "\n")
			policy, _, _ := strings.Cut(body, "\n--")
			if !strings.HasPrefix(policy, "mode ") {
				list = append(list, policy)
			}
		}
	}
	return list
}

func TestExportRoundTrip(t *testing.T) {
	for _, p := range policies(t) {
		checkRoundTrip(t, p)
	}
}

func checkRoundTrip(t *testing.T, p *Policy) {
	t.Helper()
	text := p.YAML()
	q, err := Parse(text, now.Add(time.Hour))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if !reflect.DeepEqual(q.Document(), p.Document()) || !reflect.DeepEqual(q.rules, p.rules) {
		t.Fatalf("reads back otherwise:\n%s\n%s", text, q.YAML())
	}
	if !bytes.Equal(q.YAML(), text) {
		t.Fatalf("written twice:\n%s\n%s", text, q.YAML())
	}
	j, err := json.Marshal(p.Document())
	if err != nil {
		t.Fatal(err)
	}
	if q, err = Parse(j, now); err != nil || !reflect.DeepEqual(q.Document(), p.Document()) {
		t.Fatalf("%v: JSON reads back otherwise: %s", err, j)
	}
}

func TestJSONWithTabs(t *testing.T) {
	p, err := Parse([]byte("{\n\t\"default\":\t\"ask\",\n\t\"rules\": [\n\t\t{\"action\": \"allow\", \"ports\": [443, \"80-81\"], \"note\": \"a\\/b \\u00e4 \\ud83d\\ude00\"}\n\t]\n}\n"), now)
	if err != nil || p.doc.Rules[0].Note != "a/b ä 😀" || len(p.rules[0].ports) != 2 {
		t.Fatal(err, p)
	}
}

func TestNormalForm(t *testing.T) {
	p, err := Parse([]byte(`rules:
  - {action: allow, domains: [API.Example.COM., "*.BÜCHER.example", "bücher.example"], ports: 8080-8080, methods: [get], id: x}
  - {action: deny, cidrs: [2001:DB8::/32, 192.0.2.1/32], expires: 2026-11-24T13:00:00.5+01:00}
`), now)
	if err != nil {
		t.Fatal(err)
	}
	want := `version: 1
default: deny
rules:
  - id: x
    action: allow
    domains: [api.example.com, '*.xn--bcher-kva.example', xn--bcher-kva.example]
    ports: ["8080"]
    methods: [GET]
  - id: r1
    action: deny
    cidrs: ['2001:db8::/32', 192.0.2.1]
    expires: 2026-11-24T12:00:00Z
`
	if got := string(p.YAML()); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestPolicyDoesNotChange(t *testing.T) {
	p, err := Parse([]byte("rules: [{id: a, action: allow, domains: [a.example]}, {id: b, action: deny, ttl: 1m}]"), now)
	if err != nil {
		t.Fatal(err)
	}
	before := string(p.YAML())
	d := p.Document()
	d.Rules[0].Domains[0], d.Rules[1].ID = "evil.example", "z"

	first, err := p.Insert(0, Rule{Action: Deny, Domains: []string{"b.example"}})
	if err != nil || ids(first) != "r1 a b" {
		t.Error(ids(first), err)
	}
	last, err := p.Append(Rule{ID: "c", Action: Ask}, Rule{Action: Deny})
	if err != nil || ids(last) != "a b c r1" {
		t.Error(ids(last), err)
	}
	if _, err := p.Append(Rule{ID: "a", Action: Ask}); err == nil {
		t.Error("an ID twice is accepted")
	}
	if q, ok := last.Remove("b"); !ok || ids(q) != "a c r1" {
		t.Error(ids(q), ok)
	}
	if q, ok := p.Remove("none"); ok || ids(q) != "a b" {
		t.Error(ids(q), ok)
	}
	if q, ok := p.Prune(now.Add(time.Minute)); !ok || ids(q) != "a" {
		t.Error(ids(q), ok)
	}
	if q, ok := p.Prune(now); ok || ids(q) != "a b" {
		t.Error(ids(q), ok)
	}
	if e, ok := p.NextExpiry(now); !ok || !e.Equal(now.Add(time.Minute)) {
		t.Error("the next expiry is", e, ok)
	}
	if e, ok := p.NextExpiry(now.Add(time.Minute)); ok {
		t.Error("after the last expiry there is", e)
	}
	if got := string(p.YAML()); got != before {
		t.Errorf("it was\n%s and is\n%s", before, got)
	}
}

func ids(p *Policy) string {
	var list []string
	for i, r := range p.rules {
		if r.id != p.doc.Rules[i].ID {
			return "rules and document differ"
		}
		list = append(list, r.id)
	}
	return strings.Join(list, " ")
}

func TestInterception(t *testing.T) {
	p, err := Parse([]byte(`rules:
  - {action: allow, domains: [a.example.com], methods: [GET], ports: [443]}
  - {action: deny, domains: ["*.example.org"], paths: [/x], ttl: 1m}
  - {action: allow, domains: [plain.example.com]}
`), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		port uint16
		at   time.Time
		want bool
	}{
		{"a.example.com", 443, now, true}, {"A.EXAMPLE.COM.", 443, now, true}, {"a.example.com", 8443, now, false},
		{"b.example.org", 1, now, true}, {"b.example.org", 1, now.Add(time.Hour), false},
		{"plain.example.com", 443, now, false}, {"1.2.3.4", 443, now, false},
	} {
		if got := NeedsInterception(p, c.name, c.port, c.at); got != c.want {
			t.Errorf("%s:%d: %v", c.name, c.port, got)
		}
	}
	if q, _ := Mode(ModePolicy); q.UsesHTTP() || !p.UsesHTTP() {
		t.Error("who needs a certificate authority is not known")
	}
	if !CouldResolve(p, "plain.example.com", now) || CouldResolve(p, "other.example.com", now) {
		t.Error("what resolves is not what rules are about")
	}
}

func TestGroups(t *testing.T) {
	for _, name := range GroupNames() {
		g, _ := GroupByName(name)
		if g.About == "" || g.Source == "" || len(g.hosts) == 0 || strings.HasSuffix(g.Risk, ".") {
			t.Errorf("group %s: %+v", name, g)
		}
		p, err := New(Document{Rules: []Rule{{Action: Allow, Groups: []string{name}}}})
		if err != nil {
			t.Errorf("group %s: %v", name, err)
			continue
		}
		seen := map[string]bool{}
		for _, h := range p.rules[0].hosts {
			if h.any() || h.shared() && g.Risk == "" || seen[h.String()] {
				t.Errorf("group %s: domain %s is too wide, or there twice", name, h)
			}
			seen[h.String()] = true
		}
	}
	if _, ok := GroupByName("none"); ok || len(GroupNames()) < 10 {
		t.Error("groups:", GroupNames())
	}
}

func TestExplain(t *testing.T) {
	p, err := Parse([]byte(`default: ask
rules:
  - {id: a, action: allow, domains: ["*.github.io"], methods: [GET], paths: [/x], expires: 2026-11-24T13:00:00Z}
  - {id: b, action: allow, groups: [github], ports: [443]}
  - {id: c, action: allow, domains: [git.corp.example.com], cidrs: [10.0.0.0/7]}
  - {id: d, action: deny, ports: [25], expires: 2026-11-24T11:00:00Z}
`), now)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a: allow HTTP requests (GET) for /x to *.github.io until 2026-11-24T13:00:00Z.",
		"  note: TLS to these names is opened by smolvm, with a certificate authority of the sandbox's own.",
		"  note: the names below github.io belong to many owners.",
		"b: allow tcp to group github on ports 443.",
		"  note: group github: anybody's repositories and gists are on the same hosts, so a token of any account can carry data out.",
		"c: allow tcp to git.corp.example.com where its address is in 10.0.0.0/7.",
		"  note: 10.0.0.0/7 does not open 10.0.0.0/8 (private) within it.",
		"d: deny tcp, udp to anything on ports 25 (expired 2026-11-24T11:00:00Z).",
		"Everything else in the public internet is held until somebody answers.",
	}
	if got := p.Explain(now); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestHostOnly(t *testing.T) {
	for in, want := range map[string]string{
		"a.example": "a.example", "a.example:80": "a.example", "[::1]:80": "[::1]", "[::1]": "[::1]", "::1": "::1", "a:": "a", "a:b": "a:b",
	} {
		if got := hostOnly(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestNilHostAndZeroPolicy(t *testing.T) {
	r := Request{At: now, Protocol: TCP, Addr: netip.MustParseAddr("1.1.1.1"), Port: 443}
	if d := Decide(&Policy{}, nil, r); d.Action != Deny || d.Code != CodeDefault {
		t.Errorf("%+v", d)
	}
	r.Addr = netip.Addr{}
	if d := Decide(&Policy{}, nil, r); d.Action != Deny || d.Code != CodeBadRequest {
		t.Errorf("%+v", d)
	}
}
