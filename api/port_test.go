package api

import (
	"errors"
	"testing"
)

func TestParsePort(t *testing.T) {
	for _, test := range []struct {
		text, again string
		want        Port
	}{
		{"80", "80:80", Port{"tcp", "127.0.0.1", 80, 80, false}},
		{"8080:80", "8080:80", Port{"tcp", "127.0.0.1", 8080, 80, false}},
		{"0:80/tcp", "0:80", Port{"tcp", "127.0.0.1", 0, 80, false}},
		{"5353:53/udp", "5353:53/udp", Port{"udp", "127.0.0.1", 5353, 53, false}},
		{"0.0.0.0:8080:80", "0.0.0.0:8080:80", Port{"tcp", "0.0.0.0", 8080, 80, false}},
		{"[::1]:8080:80", "[::1]:8080:80", Port{"tcp", "::1", 8080, 80, false}},
		{"[::]:80", "[::]:80:80", Port{"tcp", "::", 80, 80, false}},
	} {
		p, err := ParsePort(test.text)
		if err != nil || p != test.want || p.String() != test.again {
			t.Errorf("%s: %+v %s, %v", test.text, p, p, err)
		}
		if q, err := ParsePort(p.String()); err != nil || q != p {
			t.Errorf("%s again: %+v, %v", p, q, err)
		}
	}
	for _, text := range []string{
		"", "x", "0", "80:", ":80", "65536", "-1", "+80", "80:0", "1:2:3:4", "localhost:80:80", "80/sctp", "80/", "[::1]80", "[::1]",
		"[]:80:80", "1.2.3.4:80", "::1:80:80", "[::ffff:1.2.3.4]:80:80", "256.1.1.1:1:1", " 80", "8e1", "0x50", "[::1]:1:2:3",
	} {
		if p, err := ParsePort(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
}

func TestPortsOfSpec(t *testing.T) {
	port := func(text string) Port {
		p, err := ParsePort(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := checkPorts([]Port{port("80"), port("80/udp"), port("127.0.0.2:80:80"), port("0:80"), port("0:80"), {GuestPort: 1}}); err != nil {
		t.Error(err)
	}
	if err := checkPorts([]Port{{HostPort: 80, GuestPort: 1}, port("80:2")}); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	if err := checkPorts(make([]Port, 1)); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	many := make([]Port, MaxPorts+1)
	for i := range many {
		many[i].GuestPort = 1
	}
	if err := checkPorts(many); !errors.Is(err, ErrExhausted) {
		t.Error(err)
	}
	all := []Port{port("1:80"), port("2:80"), port("2:80/udp")}
	if left, removed, err := RemovePorts(all, Port{HostPort: 2}); err != nil || len(left) != 1 || len(removed) != 2 {
		t.Error(left, removed, err)
	}
	if _, _, err := RemovePorts(all, Port{HostPort: 3}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
