// Package forward leads ports of the host into a sandbox.
//
//	set := forward.New(dial)                              // dial connects to a port in the guest
//	p, err := set.Add(api.Port{HostPort: 8080, GuestPort: 80})
//	set.Remove(p)
//	set.Close()
//
// A connection to the host's port becomes one within the guest, over the guest
// channel: it needs no network card, and reaches servers that listen on the guest's
// loopback. Each direction ends by itself, and a reset is passed on. Where nothing
// listens in the guest, the host's client is reset at once; the kernel has taken
// its connection by then, so it cannot be refused.
//
// # Bounds
//
// All ports of a sandbox share MaxFlows connections, beyond which more wait, and
// MaxTalks conversations over UDP, beyond which datagrams are dropped. Of each at
// most the windows of its stream are held in a direction, so that whoever does not
// read stops the other side and nobody else. A connection whose server has ended is
// reset after halfTime in which the client was silent. A conversation over UDP is
// forgotten after udpIdle, or after udpUnanswered where the guest has never answered.
package forward
