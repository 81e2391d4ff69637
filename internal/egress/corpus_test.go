package egress

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

// now is when everything in these tests happens.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// parseRequest reads a request of the corpus:
//
//	dns TYPE NAME
//	PROTOCOL ADDR:PORT|ADDR [name=N]... [tls=SNI|tls=-] [ech] [http=METHOD,HOST,PATH] [plain] [other] [at=TIME]
//
// plain is HTTP in clear before it is parsed; http without tls is parsed HTTP in
// clear.
func parseRequest(line string) (Request, error) {
	words := strings.Fields(line)
	r := Request{At: now, Protocol: words[0]}
	if r.Protocol == DNS {
		if len(words) != 3 {
			return r, fmt.Errorf("a question is dns TYPE NAME")
		}
		r.Type, r.Question = words[1], words[2]
		return r, nil
	}
	if ap, err := netip.ParseAddrPort(words[1]); err == nil {
		r.Addr, r.Port = ap.Addr(), ap.Port()
	} else if r.Addr, err = netip.ParseAddr(words[1]); err != nil {
		return r, err
	}
	for _, w := range words[2:] {
		if err := r.word(w); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *Request) word(w string) error {
	key, value, _ := strings.Cut(w, "=")
	switch key {
	case "name":
		r.Names = append(r.Names, value)
	case "tls":
		r.App, r.TLS = AppTLS, &TLS{SNI: strings.TrimPrefix(value, "-")}
	case "ech":
		r.TLS.ECH = true
	case "http":
		p := strings.SplitN(value, ",", 3)
		r.HTTP = &HTTP{Method: p[0], Host: p[1], Path: p[2]}
		if r.App == "" {
			r.App = AppHTTP
		}
	case "plain":
		r.App = AppHTTP
	case "other":
		r.App = AppOther
	case "at":
		t, err := time.Parse(time.RFC3339, value)
		r.At = t
		return err
	default:
		return fmt.Errorf("word %q", w)
	}
	return nil
}

// short says a decision as the corpus does: ACTION RULE CODE, where RULE is - for
// none; of More the need and whether one may dial.
func short(d Decision) string {
	id := d.RuleID
	if id == "" {
		id = "-"
	}
	if d.Action == More {
		s := fmt.Sprintf("more %s %s", id, d.Need)
		if d.Dial {
			s += " dial"
		}
		return s
	}
	return fmt.Sprintf("%s %s %s", d.Action, id, d.Code)
}

// checkCases runs lines "REQUEST => DECISION" and returns how many there were.
func checkCases(t *testing.T, p *Policy, h *Host, lines string) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(lines) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		request, want, ok := strings.Cut(line, "=>")
		if !ok {
			t.Errorf("%s: no =>", line)
			continue
		}
		r, err := parseRequest(request)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		n++
		d := Decide(p, h, r)
		if got := short(d); got != strings.Join(strings.Fields(want), " ") {
			t.Errorf("%s\n  got  %s\n  why  %s", line, got, d.Why)
		}
		if strings.Contains(d.Why, "%!") {
			t.Errorf("%s: reason %q", line, d.Why)
		}
		checkDecision(t, line, p, d)
	}
	return n
}

// checkDecision holds for every decision.
func checkDecision(t *testing.T, line string, p *Policy, d Decision) {
	t.Helper()
	switch {
	case d.Why == "" || !strings.HasSuffix(d.Why, ".") || strings.ContainsFunc(d.Why, unicode.IsControl):
		t.Errorf("%s: reason %q", line, d.Why)
	case d.Code == "" || (d.Action == More) != (d.Need != "") || (d.Action == More) != (d.Code == CodeMore):
		t.Errorf("%s: %+v", line, d)
	case (d.Rule >= 0) != (d.RuleID != ""), d.Rule >= 0 && p.rules[d.Rule].id != d.RuleID:
		t.Errorf("%s: rule %d is %q", line, d.Rule, d.RuleID)
	case (d.Range != nil) != (d.Code == CodeDeniedAddress || d.Code == CodeNameToDenied):
		t.Errorf("%s: code %s and range %v", line, d.Code, d.Range)
	}
}

// TestCorpus decides what testdata/decisions says. A file holds sections of a
// title (== title), a policy, and after a line "--" the cases.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/decisions/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range strings.Split("\n"+string(text), "\n== ")[1:] {
			title, body, _ := strings.Cut(section, "\n")
			t.Run(strings.TrimSuffix(filepath.Base(f), ".txt")+"/"+title, func(t *testing.T) {
				policy, cases, ok := strings.Cut(body, "\n--")
				if !ok {
					t.Fatal("no line --")
				}
				total += checkCases(t, corpusPolicy(t, policy), corpusHost, cases)
			})
		}
	}
	t.Logf("%d decisions", total)
	if total < 150 {
		t.Errorf("%d decisions, want 150 or more", total)
	}
}

var corpusHost = &Host{
	Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("185.1.1.1"), netip.MustParseAddr("2a01:db8::5")},
	NAT64: []netip.Prefix{netip.MustParsePrefix("2a02:64::/96")},
}

// corpusPolicy reads a policy, "mode NAME", or the original's settings.
func corpusPolicy(t *testing.T, text string) *Policy {
	t.Helper()
	var p *Policy
	var err error
	if mode, ok := strings.CutPrefix(strings.TrimSpace(text), "mode "); ok {
		p, err = Mode(mode)
	} else {
		p, err = Parse([]byte(text), now)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var fence = regexp.MustCompile("(?ms)^```(yaml|cases|json)\n(.*?)^```")

// TestDocs reads every policy of the guide and decides every case with the
// policy before it.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/network-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	policies, cases := 0, 0
	var p *Policy
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] == "cases" {
			cases += checkCases(t, p, corpusHost, m[2])
			continue
		}
		policies++
		if p, err = Parse([]byte(m[2]), now); err != nil {
			t.Errorf("%v in\n%s", err, m[2])
			p = &Policy{}
		}
	}
	if policies < 5 || cases < 20 {
		t.Errorf("%d policies and %d cases: the fences have changed", policies, cases)
	}
}

// benchPolicy has n rules with names before the one that decides.
func benchPolicy(b *testing.B, n int) *Policy {
	d := Document{Default: Deny}
	for i := range n {
		d.Rules = append(d.Rules, Rule{Action: Allow, Domains: []string{"*.n" + strconv.Itoa(i) + ".example.com"}})
	}
	p, err := New(d)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		p := benchPolicy(b, n)
		r := Request{
			At: now, Protocol: TCP, Addr: netip.MustParseAddr("1.1.1.1"), Port: 443, App: AppTLS,
			Names: []string{"a.n" + strconv.Itoa(n-1) + ".example.com"},
		}
		r.TLS = &TLS{SNI: r.Names[0]}
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := Decide(p, corpusHost, r); d.Action != Allow {
					b.Fatal(d)
				}
			}
		})
	}
}
