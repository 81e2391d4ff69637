package netlog

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// HAR is an HTTP Archive (HAR 1.2) of the requests in a record, which developer
// tools of browsers load. Headers and bodies are not recorded, so there are none.
type HAR struct {
	Log HARLog `json:"log"`
}

// HARLog is the only object of an archive.
type HARLog struct {
	Version string     `json:"version"`
	Creator HARCreator `json:"creator"`
	Entries []HAREntry `json:"entries"` // by the time they began
}

// HARCreator says who made an archive.
type HARCreator struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// HAREntry is one request with its answer. Fields with an underscore are ours.
type HAREntry struct {
	Started    string      `json:"startedDateTime"` // ISO 8601
	Time       float64     `json:"time"`            // milliseconds: the sum of the timings
	Request    HARRequest  `json:"request"`
	Response   HARResponse `json:"response"`
	Cache      struct{}    `json:"cache"`
	Timings    HARTimings  `json:"timings"`
	Server     string      `json:"serverIPAddress,omitempty"`
	Connection string      `json:"connection,omitempty"` // number of the flow
	Comment    string      `json:"comment,omitempty"`    // what was decided and why

	Verdict api.PolicyAction    `json:"_verdict"`
	Rule    string              `json:"_rule,omitempty"`
	Process *api.NetworkProcess `json:"_process,omitempty"`
	Secrets []string            `json:"_secrets,omitempty"`
}

// HARPair is a name and a value.
type HARPair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// HARRequest is what was asked for. Sizes of -1 are not known.
type HARRequest struct {
	Method      string    `json:"method"`
	URL         string    `json:"url"`
	HTTPVersion string    `json:"httpVersion"`
	Cookies     []HARPair `json:"cookies"`
	Headers     []HARPair `json:"headers"`
	Query       []HARPair `json:"queryString"`
	HeadersSize int64     `json:"headersSize"`
	BodySize    int64     `json:"bodySize"`
}

// HARResponse is what was answered. Status is 0 where nothing was.
type HARResponse struct {
	Status      int        `json:"status"`
	StatusText  string     `json:"statusText"`
	HTTPVersion string     `json:"httpVersion"`
	Cookies     []HARPair  `json:"cookies"`
	Headers     []HARPair  `json:"headers"`
	Content     HARContent `json:"content"`
	RedirectURL string     `json:"redirectURL"`
	HeadersSize int64      `json:"headersSize"`
	BodySize    int64      `json:"bodySize"`
}

// HARContent is the body of an answer.
type HARContent struct {
	Size     int64  `json:"size"`
	MimeType string `json:"mimeType"`
}

// HARTimings are in milliseconds.
type HARTimings struct {
	Send    float64 `json:"send"`
	Wait    float64 `json:"wait"`
	Receive float64 `json:"receive"`
}

// HAROf makes an archive of the HTTP entries of a record; others are left out.
// Version is smolvm's.
func HAROf(entries []Entry, version string) HAR {
	h := HAR{HARLog{Version: "1.2", Creator: HARCreator{"smolvm", version}, Entries: []HAREntry{}}}
	slices.SortStableFunc(entries, func(a, b Entry) int { return began(a).Compare(began(b)) })
	for _, e := range entries {
		if e.Kind == api.EventHTTP && e.HTTP != nil {
			h.Log.Entries = append(h.Log.Entries, harEntry(e))
		}
	}
	return h
}

// began is when a request began: an entry is written at its end.
func began(e Entry) time.Time {
	return e.Time.Add(-time.Duration(e.DurationMS * float64(time.Millisecond)))
}

func harEntry(e Entry) HAREntry {
	q := e.HTTP
	took := max(e.DurationMS, 0)
	wait := min(max(q.WaitMS, 0), took)
	if q.WaitMS == 0 {
		wait = took
	}
	u := requestURL(e)
	version := cmp.Or(q.Version, "HTTP/1.1")
	return HAREntry{
		Started: began(e).UTC().Format("2006-01-02T15:04:05.000Z"),
		Time:    took,
		Request: HARRequest{
			Method: q.Method, URL: u.String(), HTTPVersion: version, Cookies: []HARPair{}, Headers: header(q.RequestType),
			Query: queryPairs(u), HeadersSize: -1, BodySize: e.Sent,
		},
		Response: HARResponse{
			Status: q.Status, StatusText: http.StatusText(q.Status), HTTPVersion: version, Cookies: []HARPair{}, Headers: header(q.ResponseType),
			Content: HARContent{e.Received, cmp.Or(q.ResponseType, "x-unknown")}, HeadersSize: -1, BodySize: e.Received,
		},
		Timings:    HARTimings{Send: 0, Wait: wait, Receive: took - wait},
		Server:     serverOf(e),
		Connection: strconv.FormatUint(e.Flow, 10),
		Comment:    strings.TrimSpace(string(e.Verdict) + " " + e.Reason),
		Verdict:    e.Verdict, Rule: e.Rule, Process: e.Process, Secrets: e.Secrets,
	}
}

// requestURL is the URL of a request, escaped where a guest wrote nonsense.
func requestURL(e Entry) *url.URL {
	host := cmp.Or(e.HTTP.Host, e.Host, e.Address)
	scheme := cmp.Or(e.HTTP.Scheme, "http")
	path, query, _ := strings.Cut(e.HTTP.Path, "?")
	u, err := url.Parse(scheme + "://" + host + path)
	if err != nil || u.Host == "" {
		u = &url.URL{Scheme: "http", Host: "invalid", Path: "/" + host + path}
	}
	u.RawQuery = escapeQuery(query)
	return u
}

// escapeQuery escapes what has no place in a query, and nothing else.
func escapeQuery(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '#' || c == '"' || c == '<' || c == '>' {
			b.WriteString(url.QueryEscape(string([]byte{c})))
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func queryPairs(u *url.URL) []HARPair {
	pairs := []HARPair{}
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		if part == "" {
			continue
		}
		k, v, _ := strings.Cut(part, "=")
		pairs = append(pairs, HARPair{unescape(k), unescape(v)})
	}
	return pairs
}

func unescape(s string) string {
	if t, err := url.QueryUnescape(s); err == nil {
		return t
	}
	return s
}

func header(contentType string) []HARPair {
	if contentType == "" {
		return []HARPair{}
	}
	return []HARPair{{"Content-Type", contentType}}
}

// serverOf is the address that was connected to.
func serverOf(e Entry) string {
	if host, _, err := net.SplitHostPort(e.Dialed); err == nil {
		return host
	}
	return e.Address
}
