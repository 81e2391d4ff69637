package api

import "time"

// Modes of a sandbox's network.
const (
	NetworkNone   = "none"   // nothing leaves, no name resolves
	NetworkPolicy = "policy" // a policy decides; without one, the public internet
	NetworkOpen   = "open"   // the public internet and the networks around the host
)

// What the record of a network holds.
const (
	NetworkLogFlows = "flows" // questions and flows; HTTP where it was looked at anyway
	NetworkLogHTTP  = "http"  // each HTTP request; TLS is opened for it
)

// Network says what a sandbox may reach. The zero value is NetworkPolicy without
// a policy: the public internet, and nothing that lies around the host.
type Network struct {
	Mode   string  `json:"mode,omitempty"`   // empty: NetworkPolicy
	Policy *Policy `json:"policy,omitempty"` // of NetworkPolicy alone; nil: all that is public
	// InternetSettings are another way to write a Policy, which takes their place.
	InternetSettings *InternetSettings `json:"internet_settings,omitempty"`

	Log string   `json:"log,omitempty"` // empty: NetworkLogFlows
	DNS []string `json:"dns,omitempty"` // name servers to ask, ADDRESS or ADDRESS:PORT; empty: the host's

	AskSeconds float64 `json:"ask_seconds,omitempty"` // how long a flow waits for an answer; zero: 60

	RateKiB  int   `json:"rate_kib,omitempty"`  // KiB a second in each direction; zero: no bound
	Conns    int   `json:"conns,omitempty"`     // flows open at once; zero: the stack's own bounds
	QuotaMiB int64 `json:"quota_mib,omitempty"` // both directions together, of this sandbox's whole life; zero: no bound
}

// Secret is a value that the guest never sees: in its environment stands a
// placeholder, which becomes the value in requests to Hosts and nowhere else.
type Secret struct {
	Name  string   `json:"name"`  // of the environment variable
	Hosts []string `json:"hosts"` // exact names or *.suffix
	// Value is held in memory alone. It is not kept, shown or logged, and empty in
	// all that smolvm returns.
	Value string `json:"value,omitempty"`
}

// Port is a port of the host that leads into the sandbox.
type Port struct {
	Proto     string `json:"proto,omitempty"`     // "tcp" (also if empty) or "udp"
	HostIP    string `json:"host_ip,omitempty"`   // address to listen at; empty: 127.0.0.1
	HostPort  int    `json:"host_port,omitempty"` // zero: any that is free
	GuestPort int    `json:"guest_port"`
	// Picked says that HostPort was not asked for: where it is not free at the next
	// start, another one takes its place.
	Picked bool `json:"picked,omitempty"`
}

// Mount is a folder of the host in the sandbox.
type Mount struct {
	Host  string `json:"host"`            // absolute path of a folder
	Guest string `json:"guest,omitempty"` // absolute path; empty: the same as Host
	// Writable lets the sandbox change the folder. Otherwise what it writes stays in
	// the sandbox, in a layer over the folder.
	Writable bool `json:"writable,omitempty"`
}

// PendingFlow is a flow that waits for a person's answer.
type PendingFlow struct {
	ID      string    `json:"id"` // of this sandbox, such as "a7"
	Asked   time.Time `json:"asked"`
	Expires time.Time `json:"expires"` // denied then
	Rule    string    `json:"rule,omitempty"`
	Proto   string    `json:"proto"` // "tcp", "udp", "icmp", "dns"
	Host    string    `json:"host"`  // name, or address where there is none
	Address string    `json:"address,omitempty"`
	Port    int       `json:"port,omitempty"`
	Method  string    `json:"method,omitempty"` // of an HTTP request
	Path    string    `json:"path,omitempty"`   // with its query; the first 512 bytes
	PID     int       `json:"pid,omitempty"`    // of the guest's process, where known
	Argv    []string  `json:"argv,omitempty"`
	Flows   int       `json:"flows"` // how many wait for this answer
}

// How far an answer to a PendingFlow reaches.
const (
	AnswerOnce    = "once"    // this flow
	AnswerSandbox = "sandbox" // what is asked, until the sandbox ends: a rule is put first
	AnswerPattern = "pattern" // the whole host: a rule for its name on all ports and paths is put first
)

// FlowAnswer answers a PendingFlow.
type FlowAnswer struct {
	ID    string `json:"id"`
	Allow bool   `json:"allow"`
	For   string `json:"for,omitempty"` // empty: AnswerOnce
}
