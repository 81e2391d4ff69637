package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/netlog"
	"github.com/smolvm/smolvm/internal/seal"
	"github.com/smolvm/smolvm/internal/store"
)

const recordedID = "0123456789ab"

// someEntries are of each kind.
var someEntries = []netlog.Entry{
	{Kind: api.EventStart},
	{
		Kind: api.EventDNS, Verdict: api.PolicyAllow, Rule: "index", Code: "rule", Reason: "Rule index allows pypi.org.", Proto: "udp", Host: "pypi.org",
		DNS: &api.NetworkDNS{Type: "A", Result: "NOERROR", Addresses: []string{"151.101.0.223", "151.101.64.223"}, Removed: []string{"10.0.0.1"}},
	},
	{
		Kind: api.EventDNS, Verdict: api.PolicyDeny, Code: "default", Reason: "No rule is about evil.example, and the default is deny.", Host: "evil.example",
		DNS: &api.NetworkDNS{Type: "TXT", Result: "NXDOMAIN"}, Process: &api.NetworkProcess{PID: 40, Argv: []string{"dig", "txt", "evil.example"}},
	},
	{
		Kind: api.EventFlow, Verdict: api.PolicyAllow, Rule: "index", Code: "rule", Flow: 1, Proto: "tcp", Host: "pypi.org", Address: "151.101.0.223", Port: 443,
		Dialed: "151.101.0.223:443", Process: &api.NetworkProcess{PID: 41, Argv: []string{"pip", "install", "six", strings.Repeat("x", 100)}},
	},
	{
		Kind: api.EventHTTP, Verdict: api.PolicyAllow, Rule: "read", Flow: 1, Proto: "tcp", Host: "pypi.org", Address: "151.101.0.223", Port: 443,
		HTTP: &api.NetworkHTTP{
			Method: "GET", Scheme: "https", Host: "pypi.org", Path: "/simple/six/?a=b&c", Version: "HTTP/2.0", Status: 200,
			ResponseType: "text/html", WaitMS: 80,
		},
		Sent: 400, Received: 45000, DurationMS: 120.4, Secrets: []string{"PYPI_TOKEN"},
	},
	{
		Kind: api.EventHTTP, Verdict: api.PolicyDeny, Code: "method", Reason: "POST pypi.org / is not allowed: rule read is not about method POST.", Flow: 1, Host: "pypi.org",
		HTTP: &api.NetworkHTTP{Method: "POST", Scheme: "https", Host: "pypi.org", Path: "/", Version: "HTTP/1.1", Status: 403},
	},
	{Kind: api.EventEnd, Verdict: api.PolicyAllow, Rule: "index", Flow: 1, Proto: "tcp", Host: "pypi.org", Address: "151.101.0.223", Port: 443, Sent: 1200, Received: 46000, DurationMS: 4123, Reason: "both sides have ended"},
	{
		Kind: api.EventFlow, Verdict: api.PolicyDeny, Code: "denied_address", Flow: 2, Proto: "tcp", Address: "169.254.169.254", Port: 80,
		Reason:  "169.254.169.254 is a cloud metadata address (169.254.169.254/32), which only a rule with that address in its cidrs opens.",
		Process: &api.NetworkProcess{PID: 42, Argv: []string{"curl", "http://169.254.169.254/\x1b[2J" + "\u202e"}},
	},
	{Kind: api.EventFlow, Verdict: api.PolicyAllow, Code: "default", Flow: 3, Proto: "udp", Address: "2606:4700::1111", Port: 123},
	{Kind: api.EventFlow, Verdict: api.PolicyAllow, Rule: "ping", Flow: 4, Proto: "icmp", Address: "1.1.1.1"},
	{
		Kind: api.EventAsk, Verdict: api.PolicyAsk, Rule: "write", Ask: "a7", Flow: 5, Host: "api.example.com",
		HTTP: &api.NetworkHTTP{Method: "POST", Scheme: "https", Host: "api.example.com:8443", Path: "/v1"},
	},
	{Kind: api.EventAnswer, Verdict: api.PolicyDeny, Ask: "a7", Reason: "A person denied it (once).", Host: "api.example.com"},
	{Kind: api.EventDrop, Count: 12, Reason: "source", Address: "10.0.0.9"},
	{Kind: api.EventLimit, Reason: "the quota of 10 MiB is used up"},
	{
		Kind: api.EventAlarm, Verdict: api.PolicyDeny, Secrets: []string{"GITHUB_TOKEN"}, Flow: 6, Host: "evil.example", Reason: "A placeholder went to a host that is not among its own.",
		HTTP: &api.NetworkHTTP{Method: "POST", Scheme: "http", Host: "evil.example", Path: "/" + hostile},
	},
	{Kind: api.EventPolicy, Reason: "The policy was replaced."},
	{Kind: api.EventStop},
}

// recorded makes a state directory with a stopped sandbox "web" that has a record.
func recorded(t *testing.T) (home string, dir store.SandboxDir) {
	t.Helper()
	home = t.TempDir()
	s, err := store.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.Scratch("new")
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	half := store.SandboxDir(made.Path(recordedID))
	key, err := seal.OpenKey(s.Key())
	for _, do := range []func() error{
		func() error { return err },
		func() error { return os.Mkdir(string(half), 0o700) },
		func() error {
			return store.WriteJSON(half.Spec(), control.Record{ID: recordedID, Spec: api.Spec{Name: "web"}, Created: time.Now()})
		},
		func() error {
			return store.WriteJSON(half.State(), control.Status{State: api.StateStopped, Lived: true})
		},
		func() error { return writeEntries(half.NetworkLog(), key) },
		func() error { return s.Publish(string(half), recordedID, "web") },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	return home, s.Sandbox(recordedID)
}

func writeEntries(dir string, key seal.Key) error {
	at := time.Date(2026, 11, 24, 12, 3, 4, 123e6, time.UTC)
	w, err := netlog.Open(dir, netlog.Options{Key: key, FileBytes: 2000, Now: func() time.Time {
		at = at.Add(1500 * time.Millisecond)
		return at
	}})
	if err != nil {
		return err
	}
	for _, e := range someEntries {
		w.Record(e)
	}
	return w.Close()
}

func TestNetworkLog(t *testing.T) {
	home, _ := recorded(t)
	for name, args := range map[string][]string{
		"all":    nil,
		"denied": {"--denied"},
		"host":   {"--host", "pypi.org"},
		"since":  {"--since", "2026-11-24T12:03:24Z"},
		"tail":   {"--tail", "2"},
	} {
		r := runCLI(t, home, "", append([]string{"network", "log", "web"}, args...)...)
		if r.code != 0 || r.err != "" || strings.ContainsAny(r.out, "\x1b\a\u202e") {
			t.Errorf("%s: %+v", name, r)
		}
		golden(t, filepath.Join("testdata", "network-log-"+name+".txt"), []byte(r.out))
	}
	if r := runCLI(t, home, "", "network", "log", "web", "-f"); strings.Count(r.out, "\n") != len(someEntries) {
		t.Errorf("followed after its end: %+v", r)
	}
	if r := runCLI(t, home, "", "network", "log", "web", "--since", "1m"); r.code != 0 || r.out != "" {
		t.Errorf("since a minute ago: %+v", r)
	}
}

func TestNetworkLogColours(t *testing.T) {
	var b strings.Builder
	for _, e := range someEntries {
		b.WriteString(entryPrinter{colour: true}.line(e))
	}
	golden(t, filepath.Join("testdata", "network-log-coloured.txt"), []byte(b.String()))
}

func TestNetworkLogJSON(t *testing.T) {
	home, _ := recorded(t)
	r := runCLI(t, home, "", "network", "log", "web", "--json")
	var e struct{ Data networkLogData }
	if err := json.Unmarshal([]byte(r.out), &e); err != nil || len(e.Data.Entries) != len(someEntries) {
		t.Errorf("%d entries, %v", len(e.Data.Entries), err)
	}
	r = runCLI(t, home, "", "network", "log", "web", "--json", "-f")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	var first entryEvent
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Event != "entry" || first.Entry.Seq != 1 || len(lines) != len(someEntries)+1 {
		t.Errorf("%d lines, the first %+v, %v", len(lines), first, err)
	}
}

func TestNetworkLogVerify(t *testing.T) {
	home, dir := recorded(t)
	good := runCLI(t, home, "", "network", "log", "web", "--verify")
	if good.code != 0 || !strings.HasPrefix(good.out, "ok: 17 entries, 1 to 17, the last with hash ") {
		t.Errorf("as it was written: %+v", good)
	}
	path := filepath.Join(dir.NetworkLog(), "000001.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), `"deny"`, `"allow"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := runCLI(t, home, "", "network", "log", "web", "--verify")
	if bad.code != exitError || bad.out != "changed  000001.jsonl:5: entry 3 was changed\n" || !strings.Contains(bad.err, "not as it was written") {
		t.Errorf("after an edit: %+v", bad)
	}
	var e struct {
		OK    bool
		Data  netlog.Report
		Error struct{ Code string }
	}
	r := runCLI(t, home, "", "network", "log", "web", "--verify", "--json")
	if err := json.Unmarshal([]byte(r.out), &e); err != nil || e.OK || e.Error.Code != "altered" ||
		!slices.ContainsFunc(e.Data.Problems, func(p api.NetworkProblem) bool { return p.From == 3 }) {
		t.Errorf("%s, %v", r.out, err)
	}
}

func TestNetworkLogRefuses(t *testing.T) {
	home, _ := recorded(t)
	for args, code := range map[string]int{
		"nope":                exitError,
		"web --since noon":    exitError,
		"web --tail -1":       exitError,
		"web -f --tail 3":     exitUsage,
		"web --verify -f":     exitUsage,
		"web --verify --tail": exitUsage,
	} {
		if r := runCLI(t, home, "", append([]string{"network", "log"}, strings.Fields(args)...)...); r.code != code || r.err == "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestNetworkHar(t *testing.T) {
	home, _ := recorded(t)
	r := runCLI(t, home, "", "network", "har", "web")
	golden(t, filepath.Join("testdata", "network-har.txt"), []byte(r.out))
	if r.code != 0 || strings.ContainsAny(r.out, "\x1b\a") {
		t.Errorf("%+v", r)
	}
	file := filepath.Join(t.TempDir(), "web.har")
	if r := runCLI(t, home, "", "network", "har", "web", "-o", file, "--host", "pypi.org"); r.code != 0 || r.out != "" {
		t.Errorf("%+v", r)
	}
	b, err := os.ReadFile(file)
	var har netlog.HAR
	if err != nil || json.Unmarshal(b, &har) != nil || len(har.Log.Entries) != 2 {
		t.Errorf("%s, %v", b, err)
	}
	var e struct{ Data netlog.HAR }
	if r := runCLI(t, home, "", "network", "har", "web", "--json"); json.Unmarshal([]byte(r.out), &e) != nil || e.Data.Log.Version != "1.2" {
		t.Errorf("%+v", r)
	}
}
