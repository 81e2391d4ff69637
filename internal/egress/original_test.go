package egress

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

func TestOriginalSettings(t *testing.T) {
	for _, c := range []struct{ settings, cases, said string }{
		{`{}`, `
			tcp 93.184.216.34:443 => allow - default
			tcp 10.0.0.1:80 => deny - denied_address`, "The whole public internet is open"},
		{`{"allowed_domains": ["*"], "allowed_http_methods": ["*"]}`, `
			tcp 93.184.216.34:443 => allow - default`, "The whole public internet is open"},
		{`{"allowed_domains": []}`, `
			dns A example.com => deny - default
			tcp 93.184.216.34:443 => deny - default`, "nothing gets out"},
		{`{"allowed_domains": ["Example.com", "*.example.org"]}`, `
			dns A example.com => allow r1 rule
			dns A www.example.com => deny - default
			dns A a.example.org => allow r2 rule
			tcp 93.184.216.34:22 name=example.com other => allow r1 rule
			tcp 93.184.216.34:443 => deny - bare_address`, "Example.com is open on all TCP ports.\n*.example.org is open on all TCP ports."},
		{`{"allowed_domains": ["https://example.com"]}`, `
			tcp 93.184.216.34:443 name=example.com tls=example.com => allow r1 rule
			tcp 93.184.216.34:80 name=example.com http=GET,example.com,/ => allow r1 rule
			tcp 93.184.216.34:22 name=example.com => deny - port`, "example.com is open on port 80 and 443."},
		{`{"allowed_domains": ["http://example.com:8080/"]}`, `
			tcp 93.184.216.34:8080 name=example.com other => allow r1 rule
			tcp 93.184.216.34:80 name=example.com => deny - port`, "example.com is open on port 8080."},
		{`{"allowed_domains": ["https://example.com/api/"]}`, `
			tcp 93.184.216.34:443 name=example.com tls=example.com => more r1 http dial
			tcp 93.184.216.34:443 name=example.com tls=example.com http=POST,example.com,/api/x => allow r1 rule
			tcp 93.184.216.34:443 name=example.com tls=example.com http=GET,example.com,/other => deny - path`,
			"example.com is open on port 80 and 443 to /api/ and below; TLS to it is opened by smolvm to see the requests."},
		{`{"allowed_domains": ["example.com/api"]}`, `
			tcp 93.184.216.34:443 name=example.com tls=example.com http=GET,example.com,/api => allow r1 rule
			tcp 93.184.216.34:443 name=example.com tls=example.com http=GET,example.com,/apis => deny - path`, "to /api and below"},
		{`{"allowed_domains": ["example.com"], "allowed_http_methods": ["get", "HEAD"]}`, `
			tcp 93.184.216.34:443 name=example.com tls=example.com http=GET,example.com,/ => allow r1 rule
			tcp 93.184.216.34:443 name=example.com tls=example.com http=POST,example.com,/ => deny - method
			tcp 93.184.216.34:22 name=example.com other => deny - not_http`, "for HTTP requests with GET, HEAD"},
		{`{"allowed_http_methods": ["GET"]}`, `
			tcp 93.184.216.34:443 name=example.com tls=example.com http=GET,example.com,/ => allow r1 rule
			tcp 93.184.216.34:443 => deny - bare_address`, "Every public name is open, but no bare address, on all TCP ports for HTTP requests with GET"},
		{`{"allowed_domains": ["10.0.0.0/8", "93.184.216.34:80", "example.com:22"]}`, `
			tcp 10.1.2.3:1 => allow r1 rule
			tcp 93.184.216.34:80 => allow r2 rule
			tcp 93.184.216.34:81 => deny - port
			tcp 93.184.216.34:22 name=example.com other => allow r3 rule`, "The address 10.0.0.0/8 is open.\nThe address 93.184.216.34 is open on port 80.\nexample.com is open on port 22."},
	} {
		var s api.InternetSettings
		if err := json.Unmarshal([]byte(c.settings), &s); err != nil {
			t.Fatal(err)
		}
		p, said, err := FromSettings(s)
		if err != nil {
			t.Errorf("%s: %v", c.settings, err)
			continue
		}
		if got := strings.Join(said, "\n"); !strings.Contains(got, c.said) {
			t.Errorf("%s says\n%s", c.settings, got)
		}
		checkCases(t, p, corpusHost, c.cases)
		checkRoundTrip(t, p)
	}
}

func TestOriginalSettingsRefused(t *testing.T) {
	for settings, want := range map[string]string{
		`{"allowed_domains": ["*.com"]}`:                                          "covers everybody's names",
		`{"allowed_domains": ["ftp://example.com"]}`:                              `scheme "ftp": write http, https`,
		`{"allowed_domains": ["https://u:p@example.com"]}`:                        "leave the user out",
		`{"allowed_domains": ["https://"]}`:                                       "no URL with a host",
		`{"allowed_domains": ["localhost"]}`:                                      "has no dot",
		`{"allowed_domains": ["0x7f.1"]}`:                                         "write the address as 127.0.0.1",
		`{"allowed_domains": [""]}`:                                               "a name is missing",
		`{"allowed_domains": ["https://example.com/a/../b"]}`:                     "in several ways",
		`{"allowed_domains": ["93.184.216.34"], "allowed_http_methods": ["GET"]}`: "methods need domains",
		`{"allowed_domains": ["example.com"], "allowed_http_methods": []}`:        "allowed_http_methods is empty",
		`{"allowed_domains": ["example.com"], "allowed_http_methods": ["G T"]}`:   `method "G T"`,
	} {
		var s api.InternetSettings
		if err := json.Unmarshal([]byte(settings), &s); err != nil {
			t.Fatal(err)
		}
		if _, _, err := FromSettings(s); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "internet_settings") {
			t.Errorf("%s: %v", settings, err)
		}
	}
}

func TestParseTakesOriginalSettings(t *testing.T) {
	for _, text := range []string{
		`{"allowed_domains": ["example.com"], "allowed_http_methods": ["get"]}`,
		`{"internet_settings": {"allowed_domains": ["example.com"], "allowed_http_methods": ["GET"]}}`,
		"internet_settings:\n  allowed_domains: [example.com]\n  allowed_http_methods: [GET]\n",
	} {
		p, err := Parse([]byte(text), time.Now())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		d := p.Document()
		if len(d.Rules) != 1 || d.Default != Deny || d.Rules[0].Domains[0] != "example.com" || d.Rules[0].Methods[0] != "GET" {
			t.Errorf("%s: %+v", text, d)
		}
	}
	for text, want := range map[string]string{
		"allowed_domains: [example.com]\ndefault: allow":    `line 2: internet_settings has no field "default"`,
		"internet_settings:\n  allowed_domains: {a: b}":     "allowed_domains is no list",
		`{"internet_settings": {"allowed_domains": ["a"]}}`: `"a"`,
		"internet_settings: 7":                              "is no mapping",
	} {
		if _, err := Parse([]byte(text), time.Now()); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "network policy: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
