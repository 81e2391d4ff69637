package network

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/intercept"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/secret"
)

// Config says what a network is made of. Its zero value is the network of a
// sandbox of which nothing was said: the public internet, unrecorded.
type Config struct {
	// Sandbox is its name, for what is said to people.
	Sandbox string
	// Spec is what the user asked for. Its policy must be one that PolicyOf takes.
	Spec api.Network

	// Owner finds the process of a flow in the guest; nil: processes stay unknown.
	Owner Owner
	// Log is told what was decided; nil: nobody.
	Log Log
	// Changed is called after an answer has put a rule into the policy, so that it
	// can be kept. It may take its time and must not call the network.
	Changed func(api.Policy)

	// CA signs for servers where TLS is opened; nil: it cannot be.
	CA *intercept.CA

	// Secrets are put into requests to their hosts; nil: there are none.
	Secrets *secret.Vault

	// Names are what an earlier network of the same guest gave out (Network.Names),
	// and Used what it had used of its quota (Network.Stats).
	Names []netstack.Pin
	Used  int64

	// For tests. Empty: the host's own.
	Dialer   netstack.Dialer
	Upstream netstack.Upstream
	Now      func() time.Time
	Addrs    func() ([]netip.Addr, error) // the host's addresses
	Roots    *x509.CertPool               // whom servers are verified by
}

// Owner finds the guest's process that began a flow. It must be bounded by its
// context and by its own time; an error means that the process is not known.
type Owner func(ctx context.Context, f netstack.Flow) (api.NetworkProcess, error)

// Log takes entries of the record. It is called from the paths of packets and
// must not block for long.
type Log interface {
	Record(e api.NetworkEntry)
}

// DefaultHold is how long a flow waits for an answer where Spec does not say.
const DefaultHold = 60 * time.Second

// MaxHold bounds what Spec may say: the guest's own timeouts end a flow long before.
const MaxHold = time.Hour

const (
	// maxPending bounds how many different questions wait for a person: more of
	// them nobody reads.
	maxPending = 64
	// maxHeld bounds how many flows wait altogether.
	maxHeld = 256
)

// PolicyOf returns the policy that spec means, or an error of class Invalid.
func PolicyOf(spec api.Network) (*egress.Policy, error) {
	if spec.Policy == nil && spec.InternetSettings == nil {
		return egress.Mode(spec.Mode)
	}
	if spec.Mode != "" && spec.Mode != api.NetworkPolicy {
		return nil, api.Errorf(api.Invalid, "network %s: only network %s takes a policy", spec.Mode, api.NetworkPolicy)
	}
	if spec.InternetSettings != nil {
		p, _, err := egress.FromSettings(*spec.InternetSettings)
		return p, err
	}
	return egress.New(*spec.Policy)
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = nobody{}
	}
	if c.Secrets == nil {
		c.Secrets = secret.NewVault(nil)
	}
	if c.Changed == nil {
		c.Changed = func(api.Policy) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Addrs == nil {
		c.Addrs = hostAddrs
	}
	if c.Dialer == nil {
		c.Dialer = dialer()
	}
	return c
}

func (c Config) hold() time.Duration {
	if c.Spec.AskSeconds <= 0 {
		return DefaultHold
	}
	return time.Duration(min(c.Spec.AskSeconds, MaxHold.Seconds()) * float64(time.Second))
}

func (c Config) limits() netstack.Limits {
	return netstack.Limits{
		Held:       maxHeld,
		Flows:      c.Spec.Conns,
		RateBytes:  c.Spec.RateKiB << 10,
		QuotaBytes: c.Spec.QuotaMiB << 20,
		// A question ends by its own time, which began earlier than that of a flow
		// that joined it.
		HoldTimeout: c.hold() + time.Second,
	}
}

type nobody struct{}

func (nobody) Record(api.NetworkEntry) {}
