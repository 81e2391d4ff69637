package smolvm_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/smolvm/smolvm/api"
)

// escape is one probe of testdata/escape.py.
type escape struct {
	name string
	// reason is what must stand in the record; empty: the guest's own kernel does not
	// let it get as far as its card.
	reason string
	// reaches are packets that may leave: connections to what the policy allows, as
	// "tcp 93.184.1.1:443". With "!" in front they may carry the probe's bytes.
	reaches []string
}

const (
	okHost  = "93.184.1.1"   // of ok.example.com
	farHost = "93.184.9.9"   // a public address without a name
	ownHost = "93.184.200.1" // the host's own public address
)

// Under the default policy the public internet is open and nothing else is.
var byAddress = []escape{
	{name: "metadata", reason: "169.254.169.254 is .*metadata"},
	{name: "metadata-hex", reason: "metadata"},
	{name: "metadata-octal", reason: "metadata"},
	{name: "metadata-short", reason: "metadata"},
	{name: "metadata-decimal", reason: "metadata"},
	{name: "metadata-mapped", reason: "metadata"},
	{name: "metadata-nat64", reason: "metadata"},
	{name: "metadata-6to4", reason: "metadata|6to4"},
	{name: "metadata-ipv6", reason: "metadata"},
	{name: "metadata-alibaba", reason: "metadata"},
	{name: "metadata-oracle", reason: "metadata|protocol assignments"},
	{name: "metadata-azure", reason: "metadata|host"},
	{name: "metadata-ecs", reason: "metadata|link-local"},
	{name: "private-10", reason: "private"},
	{name: "private-172", reason: "private"},
	{name: "private-192", reason: "private"},
	{name: "private-ula", reason: "private"},
	{name: "private-nat64", reason: "private"},
	{name: "local-nat64", reason: "private"},
	{name: "teredo", reason: "private"},
	{name: "carrier-nat", reason: "carrier"},
	{name: "reserved", reason: "destination"},
	{name: "documentation", reason: "documentation"},
	{name: "gateway", reason: "."},
	{name: "gateway-ipv6", reason: "."},
	{name: "gateway-ssh", reason: "."},
	{name: "gateway-udp", reason: "."},
	{name: "link-neighbour"}, // the broadcast address of its own link: no connection to it
	{name: "other-link", reason: "benchmarking"},
	{name: "host-public", reason: "host"},
	{name: "host-public-nat64", reason: "host"},
	{name: "metadata-name", reason: "."},
	{name: "private-name", reason: `10\.0\.0\.1`},
	{name: "loopback-name", reason: `127\.0\.0\.1`},
	{name: "metadata-udp", reason: "metadata"},
	{name: "metadata-ping", reason: "metadata"},
	{name: "private-ping", reason: "private"},
	{name: "multicast-mdns", reason: "."},
	{name: "multicast-ssdp", reason: "."},
	{name: "multicast-ipv6", reason: "."},
	{name: "broadcast", reason: "."},
	{name: "link-local-ipv6", reason: "."},
	{name: "frame-loopback", reason: "."},
	{name: "frame-loopback-ipv6", reason: "."},
	{name: "frame-mapped", reason: "."},
	{name: "frame-compatible", reason: "."},
	{name: "frame-zero", reason: "."},
	{name: "spoofed-source", reason: "."},
	{name: "spoofed-source-ipv6", reason: "."},
	{name: "spoofed-mac", reason: "."},
	{name: "other-mac", reason: "."},
	// The option is not followed: what is allowed is the packet's own destination.
	{name: "source-route", reason: ".", reaches: []string{"!udp 93.184.1.1:80"}},
	{name: "routing-header", reason: "."},
	{name: "tunnels", reason: "."},
	{name: "malformed", reason: "."},
	{name: "fragments", reason: "."},
	{name: "oversized"},
	{name: "other-protocols", reason: "."},
	{name: "redirect"}, // not a frame that asks for anything: chatter
}

// Under a policy that allows ok.example.com on the ports of the web, and
// rebind.example.com, which leads elsewhere.
var byName = []escape{
	{name: "bare-address-with-host", reason: "name"},
	{name: "bare-address-with-sni", reason: "name"},
	{name: "sni-of-another", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "sni-in-pieces", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "sni-in-records", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "sni-missing", reason: "name", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "sni-address", reason: ".", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "ech", reason: "encrypted|hidden|ECH", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "host-of-another", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:80"}},
	{name: "host-twice", reason: ".", reaches: []string{"tcp 93.184.1.1:80"}},
	{name: "host-folded", reason: ".", reaches: []string{"tcp 93.184.1.1:80"}},
	{name: "host-absolute", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:80"}},
	{name: "connect-method", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:80"}},
	{name: "second-request", reason: "evil.example.com", reaches: []string{"tcp 93.184.1.1:80"}},
	// It has no other name to show: what counts is where it goes, and it goes there.
	{name: "no-protocol", reaches: []string{"!tcp 93.184.1.1:443"}},
	{name: "half-a-hello", reason: ".", reaches: []string{"tcp 93.184.1.1:443"}},
	{name: "other-port", reason: "port"},
	{name: "below-the-name", reason: "x.ok.example.com"},
	{name: "quic", reason: "."},
	{name: "rebinding", reason: `169\.254\.169\.254`, reaches: []string{"!tcp 93.184.1.1:80"}},
	{name: "dns-tunnel", reason: "evil.example.com"},
	{name: "dns-tunnel-public", reason: "evil.example.com"},
	{name: "dns-tunnel-tcp", reason: "evil.example.com"},
	{name: "dns-tunnel-below", reason: "escaped.ok.example.com"},
	{name: "dns-of-another-port", reason: "."},
	{name: "dns-over-tls", reason: "."},
	{name: "dns-over-https", reason: "."},
	{name: "not-dns"},
	{name: "public-udp", reason: "."},
	{name: "public-ping", reason: "."},
}

const byNamePolicy = `version: 1
default: deny
rules:
  - {id: web, action: allow, domains: [ok.example.com, rebind.example.com], ports: [80, 443]}
`

// TestVMEscape has root in a real guest try to get out, by each door there is. What
// got out is seen on the wire, not believed from the guest.
func TestVMEscape(t *testing.T) {
	const inside = "SMOLVM_TEST_ESCAPE"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVMEscape$", "-test.v", "-test.timeout=20m")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Getuid() != 0 { // root may make a network as it is, and in a chroot nothing else
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		var out bytes.Buffer
		cmd.Stdout = io.MultiWriter(&out, os.Stdout)
		cmd.Stderr = os.Stderr
		err := cmd.Run()
		if err != nil || !strings.Contains(out.String(), "--- PASS: TestVMEscape") {
			t.Fatalf("in a network of its own: %v", err)
		}
		return
	}
	makeWorld(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := addAddress(lo.Index, netip.MustParseAddr(ownHost)); err != nil {
		t.Fatal(err)
	}
	w := watchLoopback(t)
	answerAll(t, 22, 80, 443, 853, 8080)
	names := serveNames(t)
	e := &escapes{t: t, watch: w, names: names}
	e.box = strings.TrimSpace(e.smolvm("create", "--dns", names.addr))
	t.Cleanup(func() { e.smolvm("rm", e.box) })
	e.smolvm("cp", filepath.Join("testdata", "escape.py"), e.box+":/escape.py")

	t.Run("controls", func(t *testing.T) {
		e.mustReach(t, "control-tcp", "!tcp 93.184.9.9:80")
		e.mustReach(t, "control-udp", "!udp 93.184.9.9:80")
	})
	for _, p := range byAddress {
		t.Run(p.name, func(t *testing.T) { e.try(t, e.box, p) })
	}
	e.t = t
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(byNamePolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	e.smolvm("network", "set", e.box, file)
	t.Run("controls by name", func(t *testing.T) {
		e.mustReach(t, "control-name", "!tcp 93.184.1.1:80")
		e.mustReach(t, "control-tls", "tcp 93.184.1.1:443")
	})
	for _, p := range byName {
		t.Run(p.name, func(t *testing.T) { e.try(t, e.box, p) })
	}
	t.Run("none", func(t *testing.T) {
		e.t = t
		box := strings.TrimSpace(e.smolvm("create", "--network", "none"))
		defer e.smolvm("rm", box)
		e.smolvm("cp", filepath.Join("testdata", "escape.py"), box+":/escape.py")
		e.try(t, box, escape{name: "none-frames"})
		e.try(t, box, escape{name: "control-tcp"})
	})
	e.t = t
	t.Run("verify", func(t *testing.T) { e.smolvm("network", "log", "--verify", e.box) })
}

// escapes runs probes and looks at what came of them.
type escapes struct {
	t     *testing.T
	watch *watcher
	names *names
	box   string
	seen  int // entries of the record that belong to earlier probes
}

func (e *escapes) smolvm(args ...string) string {
	e.t.Helper()
	cmd := exec.Command(os.Getenv("SMOLVM_BIN"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		e.t.Fatalf("smolvm %s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// run runs a probe and returns what left, without the name server's own traffic.
func (e *escapes) run(box, name string) (said string, left []seen) {
	e.watch.take()
	said = e.smolvm("exec", box, "--", "timeout", "60", "python3", "/escape.py", name)
	for _, s := range e.watch.take() {
		if s.dst.String() != e.names.addr && !e.names.answered(s.dst) {
			left = append(left, s)
		}
	}
	return said, left
}

func (e *escapes) try(t *testing.T, box string, p escape) {
	e.t = t
	said, left := e.run(box, p.name)
	t.Logf("%s", said)
	if !strings.HasPrefix(said, p.name+": ") && p.name != "rebinding" {
		t.Errorf("the probe did not run: %s", said)
	}
	for _, s := range left {
		bare := s.proto + " " + s.dst.String()
		if !slices.Contains(p.reaches, "!"+bare) && (s.marked || !slices.Contains(p.reaches, bare)) {
			t.Errorf("left: %v", s)
		}
	}
	for _, q := range e.names.take() {
		if !slices.Contains(e.names.allowed, q) {
			t.Errorf("was asked for outside: %s", q)
		}
	}
	if box != e.box {
		return
	}
	record := e.record()
	if p.reason == "" {
		return
	}
	re := regexp.MustCompile("(?i)" + p.reason)
	recordSays := func() bool {
		record = append(record, e.record()...)
		return slices.ContainsFunc(record, func(l recorded) bool { return l.denied() && re.MatchString(l.says()) })
	}
	// Of frames alike that are dropped there is one entry a second.
	for deadline := time.Now().Add(patience); !recordSays(); {
		if time.Now().After(deadline) {
			t.Fatalf("the record does not say %q of it: %v", p.reason, record)
		}
	}
}

func (e *escapes) mustReach(t *testing.T, name, want string) {
	e.t = t
	said, left := e.run(e.box, name)
	e.names.take()
	e.record()
	for _, s := range left {
		bare := s.proto + " " + s.dst.String()
		if bare == strings.TrimPrefix(want, "!") && (s.marked || !strings.HasPrefix(want, "!")) {
			return
		}
	}
	t.Errorf("%s did not get out, so the other probes prove nothing: %s; left: %v", name, said, left)
}

// recorded is an entry of the record.
type recorded struct{ api.NetworkEntry }

// denied reports whether something did not get what it wanted.
func (r recorded) denied() bool {
	return r.Verdict == api.PolicyDeny || r.Kind == api.EventDrop || r.Kind == api.EventLimit || r.DNS != nil && len(r.DNS.Removed) > 0
}

// says is what the probe's reason is looked for in.
func (r recorded) says() string {
	said := []string{r.Host, r.Reason}
	if r.DNS != nil {
		said = append(said, r.DNS.Removed...)
	}
	return strings.Join(said, " ")
}

func (r recorded) String() string {
	b, _ := json.Marshal(r.NetworkEntry)
	return "\n" + string(b)
}

// record returns the entries since the last call.
func (e *escapes) record() []recorded {
	var answer struct {
		Data struct{ Entries []recorded }
	}
	if err := json.Unmarshal([]byte(e.smolvm("network", "log", e.box, "--json")), &answer); err != nil {
		e.t.Fatalf("record: %v", err)
	}
	all := answer.Data.Entries
	out := all[min(e.seen, len(all)):]
	e.seen = len(all)
	return out
}

// names is a name server that knows example.com.
type names struct {
	conn    net.PacketConn
	addr    string
	allowed []string // what may be asked for

	mu      sync.Mutex
	asked   []string
	clients map[netip.AddrPort]bool
	rebinds int
}

func serveNames(t *testing.T) *names {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n := &names{conn: conn, addr: conn.LocalAddr().String(), clients: map[netip.AddrPort]bool{}}
	n.allowed = []string{"ok.example.com", "rebind.example.com", "private.example.com", "loopback.example.com"}
	go n.serve()
	return n
}

// answered reports whether an address is one that asked.
func (n *names) answered(a netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.clients[a]
}

func (n *names) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.asked
	n.asked = nil
	return all
}

func (n *names) serve() {
	b := make([]byte, 4096)
	for {
		size, from, err := n.conn.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		reply := dnsmessage.Message{Questions: m.Questions}
		reply.ID, reply.Response, reply.RecursionAvailable = m.ID, true, true
		if a := n.address(q, from); a.IsValid() {
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: a.As4()},
			}}
		}
		if packed, err := reply.Pack(); err == nil {
			n.conn.WriteTo(packed, from)
		}
	}
}

// address answers a question; that for rebind.example.com every time differently.
func (n *names) address(q dnsmessage.Question, from net.Addr) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	n.asked = append(n.asked, name)
	n.clients[netip.MustParseAddrPort(from.String())] = true
	if q.Type != dnsmessage.TypeA {
		return netip.Addr{}
	}
	switch name {
	case "ok.example.com":
		return netip.MustParseAddr(okHost)
	case "private.example.com":
		return netip.MustParseAddr("10.0.0.1")
	case "loopback.example.com":
		return netip.MustParseAddr("127.0.0.1")
	case "rebind.example.com":
		n.rebinds++
		if n.rebinds > 1 {
			return netip.MustParseAddr("169.254.169.254")
		}
		return netip.MustParseAddr(okHost)
	}
	return netip.Addr{}
}
