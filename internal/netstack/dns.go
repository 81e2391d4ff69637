package netstack

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/smolvm/smolvm/api"
)

// Bounds of what a guest may send to its name server.
const (
	maxQuery       = 4 << 10 // bytes; real ones have a few hundred
	maxUDPAnswer   = 4 << 10
	maxStreamQuery = 128 // questions on one TCP connection
	streamIdle     = 10 * time.Second
)

// Lifetimes of answers.
const (
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute
	// failureTTL keeps a guest that tries again at once from asking each time.
	failureTTL = 2 * time.Second
)

// Upstream answers what the guest may ask. It must keep TTLs. An error becomes
// SERVFAIL.
type Upstream interface {
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// resolver is the guest's name server.
type resolver struct {
	n     *Network
	names *names

	mu    sync.Mutex
	cache *lru[Question, cached]
}

type cached struct {
	answer answers
	until  time.Time
}

func newResolver(n *Network) *resolver {
	l := n.cfg.Limits
	return &resolver{
		n:     n,
		names: newNames(l.Names, l.PinGrace, n.cfg.Now),
		cache: newLRU[Question, cached](l.Answers, nil),
	}
}

// serve answers one message of who asks, with at most room bytes; nil means that it
// is not worth an answer.
func (r *resolver) serve(ctx context.Context, who Question, wire []byte, room int) []byte {
	query, rcode := parseQuery(wire)
	if query == nil {
		return nil
	}
	reply := replyTo(query)
	if rcode == dns.RcodeSuccess {
		r.answer(ctx, who, query, reply)
	} else {
		reply.Rcode = rcode
	}
	return pack(query, reply, room)
}

// parseQuery reads a message. It returns nil for what must not be answered, and
// a code other than success for what cannot be.
func parseQuery(wire []byte) (*dns.Msg, int) {
	const headerSize = 12
	if len(wire) < headerSize || len(wire) > maxQuery {
		return nil, 0
	}
	m := new(dns.Msg)
	err := m.Unpack(wire)
	switch {
	case wire[2]&0x80 != 0:
		return nil, 0 // an answer: to answer it would make two servers talk for ever
	case err != nil:
		broken := new(dns.Msg)
		broken.Id = binary.BigEndian.Uint16(wire)
		return broken, dns.RcodeFormatError
	case m.Opcode != dns.OpcodeQuery:
		return m, dns.RcodeNotImplemented
	case len(m.Question) != 1:
		return m, dns.RcodeFormatError
	case m.Question[0].Qclass != dns.ClassINET:
		return m, dns.RcodeNotImplemented
	}
	return m, dns.RcodeSuccess
}

func replyTo(query *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Opcode, m.Response = query.Id, query.Opcode, true
	m.RecursionDesired, m.RecursionAvailable = query.RecursionDesired, true
	if len(query.Question) == 1 {
		m.Question = query.Question
	}
	if opt := query.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDPAnswer, false)
	}
	return m
}

// pack writes a reply that fits into room and into what the guest takes.
func pack(query, reply *dns.Msg, room int) []byte {
	if room < dns.MaxMsgSize {
		size := dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		room = min(room, size, maxUDPAnswer)
	}
	reply.Compress = true
	reply.Truncate(room)
	wire, err := reply.Pack()
	if err != nil || len(wire) > room {
		failed := new(dns.Msg)
		failed.SetRcode(query, dns.RcodeServerFailure)
		failed.Question = nil
		wire, _ = failed.Pack() // a bare header packs
	}
	return wire
}

// explain puts a reason where tools like dig show it, if the guest takes it.
func explain(reply *dns.Msg, code uint16, reason string) {
	if opt := reply.IsEdns0(); opt != nil && reason != "" {
		const most = 200 // a datagram must hold it
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: reason[:min(len(reason), most)]})
	}
}

// answer fills in reply, for a query with one question.
func (r *resolver) answer(ctx context.Context, who Question, query, reply *dns.Msg) {
	r.n.count.questions.Add(1)
	asked := query.Question[0]
	q := Question{Name: canonical(asked.Name), Type: dns.TypeToString[asked.Qtype], Proto: who.Proto, Src: who.Src}
	e := Event{Kind: EventQuestion, Question: q}
	defer func() {
		e.Result = dns.RcodeToString[reply.Rcode]
		r.n.record(e)
	}()
	if !known(asked.Qtype) {
		reply.Rcode, e.Reason = dns.RcodeNotImplemented, "this type is not served"
		return
	}
	if !plain(q.Name) {
		reply.Rcode, e.Reason = dns.RcodeNameError, "this is not the name of a host"
		return
	}
	if rrs, ok := r.local(asked, q); ok {
		reply.Answer, e.Verdict = rrs, Allow
		return
	}
	d := r.decide(ctx, q)
	e.Rule, e.Reason = d.Rule, d.Reason
	if d.Verdict != Allow {
		reply.Rcode = dns.RcodeNameError
		explain(reply, dns.ExtendedErrorCodeProhibited, d.Reason)
		return
	}
	e.Verdict = Allow
	r.fill(ctx, asked, q, reply, &e)
}

func (r *resolver) decide(ctx context.Context, q Question) Decision {
	if r.n.meter.isOver() {
		return Decision{Reason: r.n.meter.overError().Error()}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return r.n.settle(ctx, r.n.cfg.Decider.Question(ctx, q))
}

// fill puts what the upstream says into reply, without what policy forbids.
func (r *resolver) fill(ctx context.Context, asked dns.Question, q Question, reply *dns.Msg, e *Event) {
	if hidden(asked.Qtype) {
		return // the name is there, but has no such records
	}
	a, err := r.find(ctx, q)
	if err != nil {
		reply.Rcode, e.Reason = dns.RcodeServerFailure, err.Error()
		explain(reply, dns.ExtendedErrorCodeNetworkError, "the host's name servers did not answer")
		return
	}
	a, e.Addresses, e.Removed = r.filter(q.Name, a)
	reply.Rcode = a.rcode
	reply.Answer, reply.Ns = a.records(asked.Name)
	r.n.showGateway(reply.Answer)
	if len(e.Removed) > 0 {
		e.Reason = "addresses that policy denies were removed"
		explain(reply, dns.ExtendedErrorCodeFiltered, e.Reason)
	}
	r.names.pin(q.Name, e.Addresses, a.ttl)
}

// lookup finds the allowed addresses of a name for the host's own use, in a flow
// that was allowed by that name.
func (r *resolver) lookup(ctx context.Context, q Question) ([]netip.Addr, error) {
	a, err := r.find(ctx, q)
	if err != nil {
		return nil, err
	}
	_, addrs, _ := r.filter(q.Name, a)
	return addrs, nil
}

// find takes an answer from the cache or from upstream.
func (r *resolver) find(ctx context.Context, q Question) (answers, error) {
	now := r.n.cfg.Now()
	r.mu.Lock()
	c, ok := r.cache.get(q.subject())
	r.mu.Unlock()
	if ok && now.Before(c.until) {
		return c.answer.aged(c.until.Sub(now)), c.answer.failed
	}
	ctx, cancel := context.WithTimeout(ctx, r.n.cfg.Limits.QuestionTimeout)
	defer cancel()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(q.Name), dns.StringToType[q.Type])
	m.SetEdns0(ednsSize, false)
	got, err := r.n.cfg.Upstream.Exchange(ctx, m)
	a := answers{failed: err, ttl: failureTTL}
	if err == nil {
		a = sanitize(q, got)
	}
	if ctx.Err() == nil || a.failed == nil {
		r.mu.Lock()
		r.cache.put(q.subject(), cached{a, now.Add(a.ttl)})
		r.mu.Unlock()
	}
	return a, a.failed
}

// filter takes the addresses out that policy denies to a name.
func (r *resolver) filter(name string, a answers) (kept answers, addrs, removed []netip.Addr) {
	kept = a
	kept.rrs = nil
	for _, rr := range a.rrs {
		addr, ok := addressOf(rr)
		switch {
		case !ok:
			kept.rrs = append(kept.rrs, rr)
		case r.n.addressAllowed(name, addr):
			kept.rrs = append(kept.rrs, rr)
			addrs = append(addrs, addr)
		default:
			removed = append(removed, addr)
		}
	}
	return kept, addrs, removed
}

// local answers what has its answer here: localhost, and the names of addresses
// that were asked for.
func (r *resolver) local(asked dns.Question, q Question) ([]dns.RR, bool) {
	head := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: 60}
	if q.Name == "localhost" || strings.HasSuffix(q.Name, ".localhost") {
		switch asked.Qtype {
		case dns.TypeA:
			return []dns.RR{&dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)}}, true
		case dns.TypeAAAA:
			return []dns.RR{&dns.AAAA{Hdr: head, AAAA: net.IPv6loopback}}, true
		}
		return nil, true
	}
	if asked.Qtype != dns.TypePTR {
		return nil, false
	}
	addr, ok := reverseName(q.Name)
	if !ok {
		return nil, false
	}
	var rrs []dns.RR
	for _, name := range r.names.of(addr) {
		rrs = append(rrs, &dns.PTR{Hdr: head, Ptr: dns.Fqdn(name)})
	}
	return rrs, len(rrs) > 0
}

// serveStream answers the questions on a TCP connection.
func (r *resolver) serveStream(ctx context.Context, who Question, conn net.Conn) {
	for range maxStreamQuery {
		_ = conn.SetDeadline(time.Now().Add(streamIdle + r.n.cfg.Limits.HoldTimeout))
		wire, err := readStreamQuery(conn)
		if err != nil {
			return
		}
		reply := r.serve(ctx, who, wire, dns.MaxMsgSize)
		if reply == nil {
			return
		}
		framed := binary.BigEndian.AppendUint16(nil, uint16(len(reply)))
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			return
		}
	}
}

func readStreamQuery(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(size[:]))
	if length > maxQuery {
		return nil, api.Errorf(api.Invalid, "read DNS question: %d bytes are more than %d", length, maxQuery)
	}
	wire := make([]byte, length)
	_, err := io.ReadFull(r, wire)
	return wire, err
}
