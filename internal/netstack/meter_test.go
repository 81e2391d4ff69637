package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestRate passes what takes about a second at a rate, after what may come at
// once, in each direction and over two flows: neither much faster nor starving one.
func TestRate(t *testing.T) {
	const rate, flows = 200_000, 2
	const each = (rate + rate*burstTime) / flows
	sink := make(chan int64, flows)
	for _, test := range []struct {
		name  string
		serve func(*net.TCPConn)
		use   func(net.Conn) (int64, error)
	}{
		{"up", func(c *net.TCPConn) {
			k, _ := io.Copy(io.Discard, c)
			sink <- k
		}, func(c net.Conn) (int64, error) {
			if _, err := c.Write(make([]byte, each)); err != nil {
				return 0, err
			}
			err := c.(halver).CloseWrite()
			return <-sink, err
		}},
		{"down", func(c *net.TCPConn) { _, _ = c.Write(make([]byte, each)) },
			func(c net.Conn) (int64, error) { return io.Copy(io.Discard, c) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := start(t, Config{Decider: to(listen(t, test.serve)), Limits: Limits{RateBytes: rate}})
			began := time.Now()
			ended := make(chan time.Duration, flows)
			for range flows {
				c := g.mustDial(t, world(80))
				go func() {
					if k, err := test.use(c); err != nil || k != int64(each) {
						t.Errorf("%d bytes, %v", k, err)
					}
					ended <- time.Since(began)
				}()
			}
			first, last := <-ended, <-ended
			if last < 900*time.Millisecond || first < last/2 {
				t.Errorf("the flows ended after %s and %s", first, last)
			}
			if used := g.n.Stats().Used; used != int64(flows*each) {
				t.Errorf("%d bytes used", used)
			}
		})
	}
}

type halver interface{ CloseWrite() error }

// TestRateOfDatagrams: what comes too fast waits or is lost, and the flow's end
// does not wait for it.
func TestRateOfDatagrams(t *testing.T) {
	g := start(t, Config{Decider: to(listenUDP(t)), Limits: Limits{RateBytes: 1000}})
	c := g.udp(t, world(53053))
	for range 100 {
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for g.n.Stats().Used < minBurst-1000 {
		time.Sleep(time.Millisecond) // between looks at what no event tells
	}
	if used := g.n.Stats().Used; used > 2*minBurst+3000 {
		t.Errorf("%d bytes used at once", used)
	}
	began := time.Now()
	g.n.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %s", took)
	}
}

func TestBucketWaitsInTurnAndEndsWithItsContext(t *testing.T) {
	b := newBucket(1000)
	if err := b.take(t.Context(), minBurst); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	holds, waits := make(chan error, 1), make(chan error, 1)
	go func() { holds <- b.take(ctx, minBurst) }()
	go func() { waits <- b.take(ctx, minBurst) }()
	cancel(cause)
	for _, c := range []chan error{holds, waits} {
		if err := <-c; !errors.Is(err, cause) {
			t.Errorf("%v", err)
		}
	}
	var none *bucket
	if err := none.take(ctx, 1<<30); err != nil || none.piece(1<<30) != 1<<30 {
		t.Errorf("no bucket bounds: %v", err)
	}
}

// TestQuota: flows end when it is used up, and what comes after is denied, each
// with the reason; what was used before counts.
func TestQuota(t *testing.T) {
	const quota = 1 << 20
	addr := listen(t, fill)
	p := to(addr)
	p.question = example.question
	g := start(t, Config{Decider: p, Upstream: exampleZone(), Used: quota / 2, Limits: Limits{QuotaBytes: quota}})
	if m := g.ask(t, DefaultGateway4, question("www.example", dns.TypeA)); len(m.Answer) == 0 {
		t.Fatalf("%v", m)
	}
	idle := g.mustDial(t, world(81))
	c := g.mustDial(t, world(80))
	k, err := io.Copy(io.Discard, c)
	if err == nil || k > quota/2 {
		t.Errorf("%d bytes came, %v", k, err)
	}
	if _, err := io.Copy(io.Discard, idle); err == nil {
		t.Error("the other flow ended as if it were done")
	}
	over := func(k EventKind) func(Event) bool {
		return func(e Event) bool { return e.Kind == k && strings.Contains(e.Reason, "quota of 1048576 bytes") }
	}
	if e := g.log.wait(t, over(EventEnd)); e.Received == 0 {
		t.Errorf("%+v", e)
	}
	if _, err := g.dial(world(80)); err == nil {
		t.Error("a flow was made beyond the quota")
	}
	if e := g.log.wait(t, over(EventFlow)); e.Verdict != Deny {
		t.Errorf("%+v", e)
	}
	if m := g.ask(t, DefaultGateway4, question("www.example", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Errorf("%v", m)
	}
	g.log.wait(t, over(EventQuestion))
	// What was in copy buffers when it was reached has passed.
	if used := g.n.Stats().Used; used < quota || used > quota+8*largeCopy {
		t.Errorf("%d bytes used", used)
	}
}

func TestQuotaThatWasUsedUpBefore(t *testing.T) {
	g := start(t, Config{Decider: to(listen(t, func(*net.TCPConn) {})), Used: 2000, Limits: Limits{QuotaBytes: 1000}})
	if _, err := g.dial(world(80)); err == nil {
		t.Error("a flow was made")
	}
}

func TestAllFlowsTogetherAreBounded(t *testing.T) {
	tcp, udp := to(listen(t, discard)), to(listenUDP(t))
	p := policy{flow: func(f Flow) Decision {
		if f.Proto == UDP {
			return udp.flow(f)
		}
		return tcp.flow(f)
	}}
	g := start(t, Config{Decider: p, Limits: Limits{Flows: 2, UDPIdle: time.Hour}})
	c := g.mustDial(t, world(80))
	if _, err := g.udp(t, world(4000)).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	g.log.wait(t, func(e Event) bool { return e.Kind == EventFlow && e.Flow.Proto == UDP })
	if _, err := g.dialWithin(100*time.Millisecond, world(80)); err == nil {
		t.Fatal("a third flow was made")
	}
	if s := g.n.Stats(); s.FlowsRefused == 0 || s.TCPFlows != 1 || s.UDPFlows != 1 {
		t.Errorf("stats %+v", s)
	}
	c.Close()
	g.log.wait(t, func(e Event) bool { return e.Kind == EventEnd && e.Flow.Proto == TCP })
	if _, err := g.dial(world(80)); err != nil {
		t.Errorf("no room after one ended: %v", err)
	}
}

// TestNamesOutliveANetwork: a guest that is saved and goes on in another network
// has the names it knew, for the time they had left and no longer.
func TestNamesOutliveANetwork(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	limits := Limits{PinGrace: time.Minute}
	g := start(t, Config{Decider: example, Upstream: exampleZone(), Now: c.now, Limits: limits})
	g.ask(t, DefaultGateway4, question("rebind.example", dns.TypeA))
	c.add(time.Second)
	g.ask(t, DefaultGateway4, question("www.example", dns.TypeA))
	saved := g.n.Names()
	want := []Pin{
		{"rebind.example", netip.MustParseAddr("203.0.113.3"), time.Minute},
		{"www.example", netip.MustParseAddr("203.0.113.1"), 160 * time.Second},
		{"www.example", netip.MustParseAddr("203.0.113.2"), 160 * time.Second},
	}
	if !slices.Equal(saved, want) {
		t.Fatalf("%v", saved)
	}
	c.add(24 * time.Hour)
	wrong := []Pin{
		{"", world4, time.Minute}, {"UPPER.example", world4, time.Minute}, {"a b", world4, time.Minute},
		{"over.example", world4, 0}, {"none.example", netip.Addr{}, time.Minute},
		{"mapped.example", netip.MustParseAddr("::ffff:203.0.113.7"), time.Minute},
	}
	later := start(t, Config{Decider: example, Now: c.now, Limits: limits, Names: slices.Concat(wrong, saved, []Pin{{"long.example", world4, 1 << 62}})})
	names := func(a netip.Addr) []string { return later.n.newFlowTo(netip.AddrPortFrom(a, 443)).Names }
	if got := names(want[1].Addr); !slices.Equal(got, []string{"www.example"}) {
		t.Errorf("%v", got)
	}
	if got := names(world4); !slices.Equal(got, []string{"long.example"}) {
		t.Errorf("%v", got)
	}
	c.add(160 * time.Second)
	if got := names(want[1].Addr); got != nil {
		t.Errorf("too late: %v", got)
	}
	c.add(maxTTL)
	if got := names(world4); got != nil {
		t.Errorf("for ever: %v", got)
	}
}
