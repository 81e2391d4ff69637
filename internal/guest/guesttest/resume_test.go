package guesttest_test

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/guesttest"
)

// TestVMResume treats one guest as copies of itself: what Setup says of a resumed
// copy has to be true of it.
func TestVMResume(t *testing.T) {
	m := guesttest.Boot(t)
	v := &vm{m: m}
	v.dial(t)
	t.Cleanup(func() { v.s.Close() })
	info, err := v.c.Info(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("boot: %s", strings.Join(info.BootMS, " "))
	v.copyOf(t, "source", guest.Setup{})
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"freeze", v.testFreeze},
		{"new host", v.testThawAgain},
		{"stays without stream", v.testKept},
		{"identity", v.testIdentity},
		{"odd files", v.testOddFiles},
		{"connections", v.testConnections},
		{"hooks", v.testHooks},
		{"host keys", v.testHostKeys},
		{"tree", v.testTree},
		{"duration", v.testSetupTime},
	} {
		if !t.Run(part.name, part.test) {
			t.Logf("console:\n%s", m.LastWords())
			v.c.Thaw(ctxOf(t), time.Now())
		}
	}
}

// copyOf makes the guest one of its own, as a host does.
func (v *vm) copyOf(t *testing.T, name string, s guest.Setup) guest.Ready {
	t.Helper()
	s.Hostname, s.TimeNS, s.Seed = name, time.Now().UnixNano(), make([]byte, 64)
	rand.Read(s.Seed)
	var id [16]byte
	rand.Read(id[:])
	s.MachineID = fmt.Sprintf("%x", id)
	r, err := v.c.Identify(ctxOf(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (v *vm) freeze(t *testing.T) {
	t.Helper()
	if err := v.c.Quiesce(ctxOf(t), guest.Quiesce{Freeze: true}); err != nil {
		t.Fatal(err)
	}
}

// counter starts a process that counts in a file, and returns a function that
// reads it.
func (v *vm) counter(t *testing.T, file string) func() int {
	v.background(t, "i=0; echo ready; while :; do i=$((i+1)); echo $i > "+file+".new; mv "+file+".new "+file+"; done")
	return func() int {
		t.Helper()
		_, r, err := v.c.ReadFile(ctxOf(t), guest.Read{Path: file})
		if err != nil {
			return 0
		}
		defer r.Close()
		b := make([]byte, 20)
		n, _ := r.Read(b)
		i, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
		return i
	}
}

// counts waits until a counter goes on.
func counts(t *testing.T, count func() int) {
	t.Helper()
	from := count()
	for deadline := time.Now().Add(20 * time.Second); count() <= from; {
		if time.Now().After(deadline) {
			t.Fatalf("it does not count beyond %d", from)
		}
	}
}

func (v *vm) testFreeze(t *testing.T) {
	count := v.counter(t, "/run/count")
	counts(t, count)
	began := time.Now()
	v.freeze(t)
	t.Logf("frozen after %v", time.Since(began).Round(time.Microsecond))
	started := make(chan error, 1)
	go func() {
		_, err := v.c.Run(ctxOf(t), guest.Exec{Argv: []string{"/bin/true"}})
		started <- err
	}()
	at := count()
	for range 20 { // each look takes longer than a count
		if now := count(); now != at {
			t.Fatalf("a frozen process counted from %d to %d", at, now)
		}
	}
	select {
	case err := <-started:
		t.Fatalf("a process was started: %v", err)
	default:
	}
	began = time.Now()
	if err := v.c.Thaw(ctxOf(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Logf("thawed after %v", time.Since(began).Round(time.Microsecond))
	if err := <-started; err != nil {
		t.Error(err)
	}
	counts(t, count)
	began = time.Now()
	if err := v.c.Quiesce(ctxOf(t), guest.Quiesce{Sync: true}); err != nil {
		t.Fatal(err)
	}
	t.Logf("synced after %v", time.Since(began).Round(time.Microsecond))
}

// testThawAgain has a new host find the guest frozen.
func (v *vm) testThawAgain(t *testing.T) {
	v.freeze(t)
	v.s.Close()
	v.dial(t)
	count := v.counterAt(t, "/run/count")
	at := count()
	for range 10 {
		if count() != at {
			t.Fatal("the end of the session thawed")
		}
	}
	v.copyOf(t, "again", guest.Setup{Resumed: true})
	counts(t, count)
}

func (v *vm) counterAt(t *testing.T, file string) func() int {
	return func() int {
		t.Helper()
		r, err := v.c.Stat(ctxOf(t), guest.Path{Path: file})
		if err != nil {
			return 0
		}
		return int(r.MTimeNS / 1000)
	}
}

// testKept loses the host of a process in the foreground, with and without the
// guest being saved meanwhile.
func (v *vm) testKept(t *testing.T) {
	start := func(script string) *guest.Process {
		p, err := v.c.Exec(ctxOf(t), guest.Exec{Argv: []string{"sh", "-c", script}, Stdin: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Recv(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	ended := func(which string) {
		v.sh(t, "for i in $(seq 100); do pgrep -f 'sleep "+which+"' >/dev/null || exit 0; sleep 0.05; done; exit 1")
	}
	start("echo up; exec sleep 1171")
	v.freeze(t)
	v.s.Close()
	v.dial(t)
	v.copyOf(t, "kept", guest.Setup{Resumed: true, Copy: true})
	v.sh(t, "sleep 0.2; pgrep -f 'sleep 117[1]'")
	start("echo up; exec sleep 1172")
	v.s.Close()
	v.dial(t)
	ended("117[2]")
	// Setup in the session of a process takes nothing from its stream.
	p := start("echo up; exec sleep 1173")
	v.copyOf(t, "kept", guest.Setup{Resumed: true})
	p.Close()
	ended("117[3]")
	v.sh(t, "pkill -f 'sleep 117[1]'")
}

func (v *vm) testIdentity(t *testing.T) {
	v.sh(t, "mkdir -p /var/lib/dbus && echo old > /var/lib/dbus/machine-id; printf '127.0.0.1\\tlocalhost\\n127.0.1.1\\tgone\\n10.0.0.9\\tmine\\n' > /etc/hosts")
	state := func() []string {
		return strings.Split(v.sh(t, "hostname; cat /etc/hostname /etc/machine-id /var/lib/dbus/machine-id /proc/sys/kernel/random/boot_id; head -c16 /dev/urandom | base64; getent hosts $(hostname) mine | cut -d' ' -f1"), "\n")
	}
	v.copyOf(t, "first", guest.Setup{Resumed: true, Copy: true})
	a := state()
	r := v.copyOf(t, "a-longer-second", guest.Setup{Resumed: true, Copy: true})
	b := state()
	if len(a) != 8 || len(b) != 8 || a[0] != "first" || b[0] != "a-longer-second" || b[1] != b[0] || b[2] != b[3] || len(b[4]) != 36 {
		t.Fatalf("%q\n%q", a, b)
	}
	for i := range 6 {
		if a[i] == b[i] {
			t.Errorf("both have %q", a[i])
		}
	}
	if b[6] != "127.0.1.1" || b[7] != "10.0.0.9" {
		t.Errorf("hosts: %q", b[6:])
	}
	if r.Info.BootID != b[4] || r.Info.Hostname != b[0] || len(r.Failed) > 0 {
		t.Errorf("%+v", r)
	}
	v.copyOf(t, "3", guest.Setup{Resumed: true, Copy: true})
	if got := v.sh(t, "cat /etc/hostname; grep -c 127.0.1.1 /etc/hosts; grep -c boot_id /proc/mounts"); got != "3\n1\n1" {
		t.Errorf("%q", got)
	}
	// The same guest going on keeps its boot id.
	before := v.sh(t, "cat /proc/sys/kernel/random/boot_id")
	v.copyOf(t, "3", guest.Setup{Resumed: true})
	if after := v.sh(t, "cat /proc/sys/kernel/random/boot_id"); before != after {
		t.Errorf("boot id %s became %s", before, after)
	}
}

// testOddFiles has a guest that made something else of its files.
func (v *vm) testOddFiles(t *testing.T) {
	v.sh(t, "cd /etc && mv hosts hosts.good && mkfifo hosts && rm hostname && mkdir hostname && head -c 200000 /dev/zero > machine-id")
	r := v.copyOf(t, "odd", guest.Setup{Resumed: true, Copy: true})
	if len(r.Failed) != 3 {
		t.Errorf("%q", r.Failed)
	}
	v.sh(t, "cd /etc && rm -r hosts hostname && rm machine-id && mv hosts.good hosts")
	if r := v.copyOf(t, "even", guest.Setup{Resumed: true, Copy: true}); len(r.Failed) != 0 {
		t.Errorf("%q", r.Failed)
	}
}

// connections makes connections that are whole: over loopback, and between two
// addresses; and two that are not: one that is being opened, and an established
// one, made without its other end by TCP_REPAIR.
const connections = `
import socket, sys
def pair(family, addr):
    s = socket.socket(family); s.bind((addr, 0)); s.listen()
    c = socket.socket(family)
    if addr == "10.9.9.2": c.bind(("10.9.9.1", 0))
    c.connect(s.getsockname()[:2]); a, _ = s.accept()
    return c, a
whole = [pair(socket.AF_INET, "127.0.0.1"), pair(socket.AF_INET6, "::1"), pair(socket.AF_INET, "10.9.9.2")]
opening = socket.socket(); opening.setblocking(False)
try: opening.connect(("10.9.9.9", 80))
except BlockingIOError: pass
REPAIR = 19
half = socket.socket(); half.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
half.bind(("10.9.9.1", 0)); half.connect(("10.9.9.9", 81)); half.setsockopt(socket.IPPROTO_TCP, REPAIR, 0)
half.setblocking(False)
print("ready", flush=True)
sys.stdin.readline()
def alive(p):
    try:
        p[0].sendall(b"x"); return p[1].recv(1) == b"x"
    except OSError: return False
def ended(s):
    try: return s.recv(1)
    except BlockingIOError: return "open"
    except OSError as e: return e.strerror
print([alive(p) for p in whole], ended(opening), "|", ended(half), flush=True)
`

func (v *vm) testConnections(t *testing.T) {
	own, container := v.connect(t, ""), v.connect(t, "exec unshare -n ")
	defer own.Close()
	defer container.Close()
	began := time.Now()
	r := v.copyOf(t, "net", guest.Setup{Resumed: true, Copy: true})
	t.Logf("%v, %v", time.Since(began).Round(time.Microsecond), r.StepsUS)
	if len(r.Failed) != 0 {
		t.Errorf("%q", r.Failed)
	}
	for _, p := range []*guest.Process{own, container} {
		p.Write([]byte("\n"))
		if o, err := p.Recv(); err != nil || string(o.Data) != "[True, True, True] Software caused connection abort | Software caused connection abort\n" {
			t.Errorf("%q, %v", o.Data, err)
		}
	}
}

// connect starts connections, under a command that may give it a network of its own.
func (v *vm) connect(t *testing.T, under string) *guest.Process {
	t.Helper()
	// What goes to 10.9.9.9 comes back over lo, where nobody takes it.
	script := under + `sh -c 'ip link set lo up; ip addr add 10.9.9.1/32 dev lo; ip addr add 10.9.9.2/32 dev lo; ip route add 10.9.9.9 dev lo src 10.9.9.1; exec python3 -c "$0"' "$0"`
	p, err := v.c.Exec(ctxOf(t), guest.Exec{Argv: []string{"sh", "-c", script, connections}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := p.Recv(); err != nil || string(o.Data) != "ready\n" {
		t.Fatalf("%q, %v", o.Data, err)
	}
	return p
}

func (v *vm) testHooks(t *testing.T) {
	v.sh(t, `mkdir -p /etc/smolvm/resume.d && cd /etc/smolvm/resume.d
printf '#!/bin/sh\necho $SMOLVM_SANDBOX $SMOLVM_RESUME $(id -u) >> /run/hooked\n' > 10-first; cp 10-first 20-second
printf '#!/bin/sh\necho no good >&2; exit 3\n' > 15-bad
cp 10-first 30-foreign; chmod 755 *; chmod 757 30-foreign; cp 10-first 40-plain; chmod 644 40-plain; cp 10-first .hidden
printf '#!/bin/sh\nsleep 1000 > /dev/null 2>&1 & echo $! > /run/left\n' > 50-leaves; chmod 755 50-leaves`)
	count := v.counterAt(t, "/run/count")
	v.freeze(t)
	at := count()
	r := v.copyOf(t, "hooked", guest.Setup{Resumed: true, Copy: true})
	if at == count() {
		counts(t, count)
	}
	if len(r.Failed) != 3 || !strings.Contains(r.Failed[0], "15-bad: exit status 3: no good") || !strings.Contains(r.Failed[1], "30-foreign") {
		t.Errorf("%q", r.Failed)
	}
	if got := v.sh(t, "cat /run/hooked"); got != "hooked copy 0\nhooked copy 0" {
		t.Errorf("%q", got)
	}
	// What a hook leaves running stands still with all others at the next freeze.
	if got := v.sh(t, "cat /proc/$(cat /run/left)/cgroup"); !strings.Contains(got, "/smolvm-hooks-") {
		t.Errorf("what a hook left runs in %q", got)
	}
	v.sh(t, "kill $(cat /run/left); rm -r /etc/smolvm/resume.d /run/hooked /run/left")
}

// testHostKeys has a stand-in for ssh-keygen, which the base image lacks.
func (v *vm) testHostKeys(t *testing.T) {
	v.sh(t, `mkdir -p /etc/ssh && cd /etc/ssh && for t in rsa ed25519 ecdsa; do echo old > ssh_host_${t}_key; echo old > ssh_host_${t}_key.pub; done; echo mine > sshd_config
cat > /usr/bin/ssh-keygen <<'X'
#!/bin/sh
while [ $# -gt 0 ]; do case $1 in -f) f=$2;; -t) t=$2;; esac; shift; done
[ -e $f ] && exit 1
head -c8 /dev/urandom | base64 > $f; echo $t > $f.pub
X
chmod 755 /usr/bin/ssh-keygen
mkdir -p /root/bin && cp /usr/bin/python3 /root/bin/sshd`)
	v.background(t, `exec /root/bin/sshd -c '
import signal, os, time
def hup(*a): open("/run/hup", "w").write("hup")
signal.signal(signal.SIGHUP, hup)
open("/run/sshd.pid", "w").write(str(os.getpid()))
print("ready", flush=True)
while 1: time.sleep(0.05)'`)
	v.freeze(t)
	r := v.copyOf(t, "keys", guest.Setup{Resumed: true, Copy: true})
	if len(r.Failed) != 0 {
		t.Errorf("%q", r.Failed)
	}
	got := v.sh(t, "cd /etc/ssh && ls | tr '\\n' ' '; cat sshd_config *.pub; cat ssh_host_*_key | sort -u | grep -cv old; for i in $(seq 100); do [ -e /run/hup ] && break; sleep 0.05; done; cat /run/hup")
	if want := "ssh_host_ecdsa_key ssh_host_ecdsa_key.pub ssh_host_ed25519_key ssh_host_ed25519_key.pub sshd_config mine\necdsa\ned25519\n2\nhup"; got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	v.sh(t, "pkill sshd; rm -r /etc/ssh /usr/bin/ssh-keygen /root/bin")
}

func (v *vm) testSetupTime(t *testing.T) {
	var took []time.Duration
	var r guest.Ready
	for i := range 20 {
		v.freeze(t)
		began := time.Now()
		r = v.copyOf(t, "n"+strconv.Itoa(i), guest.Setup{Resumed: true, Copy: true})
		took = append(took, time.Since(began).Round(10*time.Microsecond))
	}
	t.Logf("setup, warm: %v\nlast: %v", took, r.StepsUS)
}
