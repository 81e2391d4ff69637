package agent

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHostsFor(t *testing.T) {
	const fresh = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"
	for _, test := range [][2]string{
		{"", fresh},
		{fresh, fresh},
		{"10.0.0.1\tdb", "10.0.0.1\tdb\n127.0.1.1\tbox\n"},
		{"127.0.1.1\told\n\n# mine\n127.0.1.1\tolder\n", "\n# mine\n127.0.1.1\tbox\n"},
	} {
		if got := hostsFor("box", test[0]); got != test[1] {
			t.Errorf("%q: %q", test[0], got)
		}
	}
}

func TestHostKeyTypes(t *testing.T) {
	for _, test := range []struct{ names, types []string }{
		{nil, nil},
		{[]string{"sshd_config", "moduli", "ssh_host_keys.txt"}, nil},
		{[]string{"ssh_host_rsa_key", "ssh_host_rsa_key.pub"}, []string{"ed25519"}},
		{[]string{"ssh_host_ecdsa_key", "ssh_host_ed25519_key"}, []string{"ed25519", "ecdsa"}},
	} {
		if got := hostKeyTypes(test.names); !slices.Equal(got, test.types) {
			t.Errorf("%v: %v", test.names, got)
		}
	}
}

// socket makes a sock of ports and addresses in network order.
func socket(family byte, src, dst string, sport, dport byte) sock {
	s := sock{family: family}
	s.id[1], s.id[3] = sport, dport
	copy(s.id[4:], src)
	copy(s.id[20:], dst)
	return s
}

func TestEndpoints(t *testing.T) {
	const six = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	const mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01"
	a := socket(unix.AF_INET, "\x0a\x00\x00\x01", "\x0a\x00\x00\x02", 1, 2).ends()
	if b := socket(unix.AF_INET, "\x0a\x00\x00\x02", "\x0a\x00\x00\x01", 2, 1).ends(); b.mirror() != a || b == a {
		t.Error("the two ends of a connection do not match")
	}
	if b := socket(unix.AF_INET6, mapped, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x02", 1, 2).ends(); b != a {
		t.Error("IPv4 in IPv6 is another address")
	}
	for _, test := range []struct {
		family   byte
		to       string
		loopback bool
	}{
		{unix.AF_INET, "\x7f\x00\x00\x01", true},
		{unix.AF_INET, "\x7f\x08\x00\x01", true},
		{unix.AF_INET, "\x0a\x7f\x00\x01", false},
		{unix.AF_INET6, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01", true},
		{unix.AF_INET6, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", true},
		{unix.AF_INET6, six, false},
	} {
		if got := socket(test.family, "", test.to, 1, 2).ends().loopback(); got != test.loopback {
			t.Errorf("%x: loopback %v", test.to, got)
		}
	}
}

// TestForgotten has hosts come back to a guest that one of them froze.
func TestForgotten(t *testing.T) {
	z := &freezer{}
	for _, test := range []struct {
		after   time.Duration
		session int
		frozen  bool
	}{
		{0, 1, true},
		{forgotten / 2, 1, true},
		{2 * forgotten, 2, true},
		{2 * forgotten, 1, false},
	} {
		z.freeze(1)
		z.since = time.Now().Add(-test.after)
		z.heard(test.session)
		if z.frozen() != test.frozen {
			t.Errorf("session %d after %v: frozen %v", test.session, test.after, z.frozen())
		}
	}
}

func TestEnter(t *testing.T) {
	z := &freezer{}
	never := func() <-chan struct{} { return nil }
	if !z.enter(never) {
		t.Fatal("refused while all run")
	}
	froze := make(chan struct{})
	go func() { z.freeze(1); close(froze) }()
	select {
	case <-froze:
		t.Error("frozen while a process is being started")
	case <-time.After(10 * time.Millisecond):
	}
	z.starts.Done()
	<-froze
	over := make(chan struct{})
	close(over)
	if z.enter(func() <-chan struct{} { return over }) {
		t.Error("started for a stream that is over")
	}
	entered := make(chan bool)
	go func() { entered <- z.enter(never) }()
	z.thaw()
	if !<-entered {
		t.Error("not started after the thaw")
	}
	z.starts.Done()
}
