package api

import "time"

// NetworkEvent says what a NetworkEntry is about.
type NetworkEvent string

// The events of a network's record.
const (
	EventStart  NetworkEvent = "start"  // the network of a VM began to work; flows are numbered anew
	EventStop   NetworkEvent = "stop"   // it ended
	EventPolicy NetworkEvent = "policy" // the policy was changed; Reason says how
	EventDNS    NetworkEvent = "dns"    // a question was answered or denied
	EventFlow   NetworkEvent = "flow"   // a flow was allowed or denied
	EventEnd    NetworkEvent = "end"    // an allowed flow ended; Reason says why
	EventHTTP   NetworkEvent = "http"   // an HTTP request was answered or denied
	EventAsk    NetworkEvent = "ask"    // a flow was held, and a person asked
	EventAnswer NetworkEvent = "answer" // the person answered, or the time was over
	EventDrop   NetworkEvent = "drop"   // Count packets were not what a guest may send
	EventLimit  NetworkEvent = "limit"  // a rate, the number of flows or the quota was reached
	EventSecret NetworkEvent = "secret" // a secret was put into a body while it went out
	EventAlarm  NetworkEvent = "alarm"  // a secret's placeholder went where it has no business
	EventPort   NetworkEvent = "port"   // a connection came in by a forwarded port
	EventLost   NetworkEvent = "lost"   // Count entries could not be written; Reason says why
	EventBroken NetworkEvent = "broken" // what stands before was altered or cut when the record was opened
)

// NetworkEntry is one line of a network's record. Fields that do not belong to
// its event are empty. What a guest wrote is cut to a bound.
type NetworkEntry struct {
	Seq  uint64       `json:"seq"`  // from 1, one more for each line
	Prev string       `json:"prev"` // SHA-256 in hex of the line before, as it stands; of the first: zeros
	Time time.Time    `json:"time"`
	Kind NetworkEvent `json:"kind"`

	// What was decided and why. Of ask: PolicyAsk.
	Verdict PolicyAction `json:"verdict,omitempty"`
	Rule    string       `json:"rule,omitempty"`   // empty: none, the default
	Code    string       `json:"code,omitempty"`   // why, for programs
	Reason  string       `json:"reason,omitempty"` // why, for people

	// Who and where.
	Flow    uint64          `json:"flow,omitempty"` // the same in all entries of a flow since start
	Ask     string          `json:"ask,omitempty"`  // PendingFlow.ID
	Proto   string          `json:"proto,omitempty"`
	Host    string          `json:"host,omitempty"`    // the name that counts; empty: there is none
	Address string          `json:"address,omitempty"` // what the guest dialled, without the port
	Port    int             `json:"port,omitempty"`
	Dialed  string          `json:"dialed,omitempty"` // ADDRESS:PORT that the host connected to
	Process *NetworkProcess `json:"process,omitempty"`

	DNS     *NetworkDNS  `json:"dns,omitempty"`     // of dns
	HTTP    *NetworkHTTP `json:"http,omitempty"`    // of http; of ask, answer and alarm where it is about a request
	Secrets []string     `json:"secrets,omitempty"` // names of those that were put in, or in an alarm of the placeholder's

	// Of end and http: bytes from the guest, bytes to it, and how long it took.
	Sent       int64   `json:"sent,omitempty"`
	Received   int64   `json:"received,omitempty"`
	DurationMS float64 `json:"duration_ms,omitempty"`

	Count uint64 `json:"count,omitempty"` // how many an entry stands for; zero: one
}

// NetworkProcess is who began a flow in the guest.
type NetworkProcess struct {
	PID  int      `json:"pid"`
	Argv []string `json:"argv,omitempty"`
}

// NetworkDNS is a DNS question and its answer. Host is the name.
type NetworkDNS struct {
	Type      string   `json:"type"`                // "A", "AAAA", ...
	Result    string   `json:"result,omitempty"`    // "NOERROR", "NXDOMAIN", ...
	Addresses []string `json:"addresses,omitempty"` // that the guest was told
	Removed   []string `json:"removed,omitempty"`   // that it was not told, since the policy denies them
}

// NetworkHTTP is one HTTP request and its answer. Secrets that were put in are
// not in it: it is what the guest wrote.
type NetworkHTTP struct {
	Method  string `json:"method"`
	Scheme  string `json:"scheme,omitempty"`  // "https", "http", "wss", "ws"
	Host    string `json:"host,omitempty"`    // as the request says, perhaps with a port
	Path    string `json:"path,omitempty"`    // with the query
	Version string `json:"version,omitempty"` // "HTTP/1.1", "HTTP/2.0"

	Status       int     `json:"status,omitempty"`
	RequestType  string  `json:"request_type,omitempty"`  // Content-Type
	ResponseType string  `json:"response_type,omitempty"` // Content-Type
	WaitMS       float64 `json:"wait_ms,omitempty"`       // until the answer began
}

// NetworkStats counts what passed a sandbox's network since it started.
type NetworkStats struct {
	SentBytes     uint64 `json:"sent_bytes"` // of frames, from the guest
	ReceivedBytes uint64 `json:"received_bytes"`
	UsedBytes     int64  `json:"used_bytes"` // of the quota, in the sandbox's whole life

	Questions uint64 `json:"questions"` // for names
	Allowed   uint64 `json:"allowed"`   // flows
	Denied    uint64 `json:"denied"`    // flows, and HTTP requests
	Refused   uint64 `json:"refused"`   // beyond a bound
	Dropped   uint64 `json:"dropped"`   // frames that a guest may not send

	Open int `json:"open"` // flows now
	Held int `json:"held"` // that wait for an answer
}
