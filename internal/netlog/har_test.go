package netlog

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

// required are the fields that HAR 1.2 demands, by the path of their object.
var required = map[string]string{
	"log":                    "version creator entries",
	"log.creator":            "name version",
	"entry":                  "startedDateTime time request response cache timings",
	"entry.request":          "method url httpVersion cookies headers queryString headersSize bodySize",
	"entry.response":         "status statusText httpVersion cookies headers content redirectURL headersSize bodySize",
	"entry.response.content": "size mimeType",
	"entry.timings":          "send wait receive",
}

func object(t *testing.T, v any, path string) map[string]any {
	t.Helper()
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("%s: %s is in no object", path, name)
		}
		v = m[name]
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%s is no object but %v", path, v)
	}
	return m
}

func TestHAR(t *testing.T) {
	evil := "\x1b[2J\"<>#% \u202e"
	entries := []Entry{
		{Kind: api.EventFlow, Time: testTime},
		{
			Kind: api.EventHTTP, Time: testTime.Add(10 * time.Second), DurationMS: 500, Verdict: api.PolicyAllow, Rule: "r", Flow: 4, Address: "93.184.216.34", Dialed: "93.184.216.35:443",
			HTTP: &api.NetworkHTTP{Method: "GET", Scheme: "https", Host: "example.com:8443", Path: "/a%2fb?x=1&y=%20z&w", Version: "HTTP/2.0", Status: 200, ResponseType: "text/html", WaitMS: 200},
			Sent: 10, Received: 2000,
		},
		{
			Kind: api.EventHTTP, Time: testTime.Add(9 * time.Second), Verdict: api.PolicyDeny, Reason: "No.",
			HTTP: &api.NetworkHTTP{Method: "POST", Host: "evil.example", Path: "/" + evil + "?" + evil},
		},
		{Kind: api.EventHTTP, Time: testTime, HTTP: &api.NetworkHTTP{Method: "GET", Scheme: "http", Host: "a b:c/" + evil, Path: "x"}},
		{Kind: api.EventHTTP, Time: testTime, HTTP: &api.NetworkHTTP{Method: "CONNECT", Host: "[::1]:443"}},
	}
	b, err := json.Marshal(HAROf(entries, "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	list, _ := object(t, doc, "log")["entries"].([]any)
	if len(list) != 4 {
		t.Fatalf("%d entries", len(list))
	}
	last := ""
	for i, e := range list {
		whole := map[string]any{"entry": e, "log": object(t, doc, "log")}
		for path, names := range required {
			o := object(t, whole, path)
			for name := range strings.FieldsSeq(names) {
				if v, ok := o[name]; !ok || v == nil {
					t.Errorf("entry %d: %s has no %s", i, path, name)
				}
			}
		}
		started := object(t, whole, "entry")["startedDateTime"].(string)
		if _, err := time.Parse(time.RFC3339, started); err != nil || started < last {
			t.Errorf("entry %d began %s, after %s: %v", i, started, last, err)
		}
		last = started
		u := object(t, whole, "entry.request")["url"].(string)
		if parsed, err := url.Parse(u); err != nil || parsed.Host == "" || strings.ContainsAny(u, " \"<>#\x1b") {
			t.Errorf("entry %d: URL %q, %v", i, u, err)
		}
	}
}

func TestHAREntry(t *testing.T) {
	e := harEntry(Entry{
		Kind: api.EventHTTP, Time: testTime.Add(time.Second), DurationMS: 500, Verdict: api.PolicyAllow, Flow: 4, Address: "93.184.216.34", Dialed: "93.184.216.35:443",
		HTTP: &api.NetworkHTTP{Method: "GET", Scheme: "https", Host: "example.com:8443", Path: "/a%2fb?x=1&y=%20z&w", Status: 200, WaitMS: 200},
	})
	if e.Started != "2026-11-24T12:00:00.500Z" || e.Timings != (HARTimings{0, 200, 300}) || e.Server != "93.184.216.35" || e.Connection != "4" {
		t.Errorf("%+v", e)
	}
	if e.Request.URL != "https://example.com:8443/a%2fb?x=1&y=%20z&w" || len(e.Request.Query) != 3 || e.Request.Query[1] != (HARPair{"y", " z"}) {
		t.Errorf("%+v", e.Request)
	}
}
