package netstack

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// TestGatewayIsTheLoopback follows a name of the host's loopback: the guest is told
// of the gateway, and the flow to it is one to the loopback.
func TestGatewayIsTheLoopback(t *testing.T) {
	for kind, test := range map[string]struct{ listen, network, record, gateway string }{
		"A":    {"127.0.0.1:0", "tcp4", "local.example. 60 IN A 127.0.0.1", DefaultGateway4.String()},
		"AAAA": {"[::1]:0", "tcp6", "local.example. 60 IN AAAA ::1", DefaultGateway6.String()},
	} {
		t.Run(kind, func(t *testing.T) {
			l, err := net.Listen(test.network, test.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			served := make(chan struct{})
			go func() {
				defer close(served)
				if c, err := l.Accept(); err == nil {
					c.Write([]byte("home"))
					c.Close()
				}
			}()
			server := netip.MustParseAddrPort(l.Addr().String())
			allow := func(f Flow) Decision {
				if f.Dst != server || len(f.Names) != 1 || f.Names[0] != "local.example" {
					return Decision{Reason: "another flow"}
				}
				return Decision{Verdict: Allow}
			}
			g := start(t, Config{
				Upstream: &zone{rrs: map[string][]string{"local.example " + kind: {test.record}}},
				Decider:  policy{flow: allow, question: func(Question) Decision { return Decision{Verdict: Allow} }},
			})
			m := g.ask(t, DefaultGateway4, question("local.example", dns.StringToType[kind]))
			if len(m.Answer) != 1 {
				t.Fatalf("answer %v", m)
			}
			told, _ := addressOf(m.Answer[0])
			if told.String() != test.gateway {
				t.Fatalf("the guest was told %s", told)
			}
			c := g.mustDial(t, netip.AddrPortFrom(told, server.Port()))
			if b, err := io.ReadAll(c); string(b) != "home" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			<-served
		})
	}
}
