package world

import (
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// ttl of answers, in seconds: short, for tests that change them.
const ttl = 1

// startDNS serves the zone on one port of both protocols.
func (w *World) startDNS(t testing.TB) {
	t.Helper()
	l, pc := samePort(t)
	w.DNS = l.Addr().String()
	for _, s := range []*dns.Server{{Listener: l}, {PacketConn: pc}} {
		s.Handler = dns.HandlerFunc(w.answer)
		started, done := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { done <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			s.Shutdown()
			if err := <-done; err != nil {
				t.Errorf("name server: %v", err)
			}
		})
	}
}

// samePort listens on one port for TCP and UDP.
func samePort(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 { // somebody else may have the second half
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc
		}
		l.Close()
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil, nil
}

func (w *World) answer(rw dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	a.Authoritative = true
	if len(q.Question) == 1 {
		w.fill(a, q.Question[0])
	}
	rw.WriteMsg(a)
}

func (w *World) fill(a *dns.Msg, q dns.Question) {
	name := strings.TrimSuffix(strings.ToLower(q.Name), ".")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.questions[name]++
	if len(w.addresses[name]) == 0 {
		a.Rcode = dns.RcodeNameError
	}
	for _, ip := range w.addresses[name] {
		h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
		switch {
		case q.Qtype == dns.TypeA && ip.Is4():
			a.Answer = append(a.Answer, &dns.A{Hdr: h, A: ip.AsSlice()})
		case q.Qtype == dns.TypeAAAA && ip.Is6():
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: h, AAAA: ip.AsSlice()})
		}
	}
}
