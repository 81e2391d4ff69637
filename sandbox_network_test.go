package smolvm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// TestVMNetwork lets a guest out into a small internet, and not.
func TestVMNetwork(t *testing.T) {
	w := world.Start(t)
	t.Setenv("SSL_CERT_FILE", w.CAFile) // whom the supervisor believes
	c := client(t)
	spec := smolvm.Spec{Name: "net", Network: worldNetwork(w, world.WWW)}
	sb := sandbox(t, c, spec)
	t.Run("as the agent made it", func(t *testing.T) { testCard(t, sb) })
	t.Run("policy", func(t *testing.T) { testPolicy(t, w, sb) })
	t.Run("changed while it runs", func(t *testing.T) { testPolicyChange(t, w, sb) })
	t.Run("no network", func(t *testing.T) { testNoNetwork(t, w, c, sb) })
	t.Run("kept over hibernation", func(t *testing.T) { testNetworkKept(t, w, sb) })
	t.Run("fork", func(t *testing.T) { testForkNetwork(t, w, sb) })
	t.Run("pool", func(t *testing.T) { testPoolNetwork(t, w, c) })
}

// worldNetwork is a network that reaches some sites of the world alone.
func worldNetwork(w *world.World, sites ...string) api.Network {
	return api.Network{DNS: []string{w.DNS}, Policy: &api.Policy{Rules: []api.Rule{w.Allow(sites...)}}}
}

// fetch has the guest fetch a URL and returns what curl says: the status of the
// answer, or 000 and its reason.
func fetch(t *testing.T, sb *smolvm.Sandbox, url string) string {
	t.Helper()
	return sh(t, sb, fmt.Sprintf("curl -sS -k -m 20 -o /tmp/answer -w '%%{http_code}' %s 2>&1 || true", url))
}

// reaches and reachesNot say what a guest's fetch must come to.
func reaches(t *testing.T, sb *smolvm.Sandbox, url string) {
	t.Helper()
	if got := fetch(t, sb, url); got != "200" {
		t.Errorf("%s: %q, want 200", url, got)
	}
}

func reachesNot(t *testing.T, w *world.World, sb *smolvm.Sandbox, url string) {
	t.Helper()
	before := len(w.Requests(""))
	if got := fetch(t, sb, url); strings.HasPrefix(got, "200") {
		t.Errorf("%s: it was reached", url)
	}
	if after := len(w.Requests("")); after != before {
		t.Errorf("%s: a request got out", url)
	}
}

func testCard(t *testing.T, sb *smolvm.Sandbox) {
	for line, want := range map[string]string{
		"cat /etc/resolv.conf":            "nameserver 198.19.77.1",
		"ip -4 -o addr show eth0":         "198.19.77.2/30",
		"ip -6 -o addr show eth0":         "fdc7:3b19:5e8d:4d::2/64",
		"ip -4 route show default":        "via 198.19.77.1 dev eth0",
		"ip -6 route show default":        "via fdc7:3b19:5e8d:4d::1 dev eth0",
		"cat /sys/class/net/eth0/address": "02:53:4d:4f:4c:02",
		"cat /sys/class/net/eth0/mtu":     "65520",
	} {
		if got := sh(t, sb, line); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	if got := sh(t, sb, "ip -6 -o addr show eth0"); strings.Count(got, "inet6") != 1 {
		t.Errorf("more than one IPv6 address: %s", got)
	}
}

func testPolicy(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	reaches(t, sb, w.PlainURL(world.WWW, "/"))
	reaches(t, sb, w.URL(world.WWW, "/"))
	reachesNot(t, w, sb, w.PlainURL(world.PyPI, "/simple/"))
	reachesNot(t, w, sb, w.URL(world.PyPI, "/simple/"))
	// What the host can reach is not what the guest can.
	reachesNot(t, w, sb, fmt.Sprintf("http://169.254.169.254:%d/", w.HTTP))
	reachesNot(t, w, sb, fmt.Sprintf("http://198.19.77.1:%d/", w.HTTP))
	if n := w.Questions(world.PyPI); n != 0 {
		t.Errorf("a denied name was asked for %d times", n)
	}
}

func testPolicyChange(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	n := must[smolvm.Network](t)(sb.SetNetwork(t.Context(), smolvm.NetworkChange{Add: []smolvm.Rule{w.Allow(world.PyPI)}}))
	if len(n.Policy.Rules) != 2 || n.DNS[0] != w.DNS {
		t.Errorf("%+v", n)
	}
	reaches(t, sb, w.URL(world.PyPI, "/simple/"))
	reaches(t, sb, w.URL(world.WWW, "/"))
	must[smolvm.Network](t)(sb.SetNetwork(t.Context(), smolvm.NetworkChange{Policy: &api.Policy{Rules: []api.Rule{w.Allow(world.WWW)}}}))
	reachesNot(t, w, sb, w.URL(world.PyPI, "/simple/"))
	reaches(t, sb, w.URL(world.WWW, "/"))
	bad := smolvm.NetworkChange{Policy: &api.Policy{Rules: []api.Rule{{Action: api.PolicyAllow, Paths: []string{"/x"}}}}}
	if _, err := sb.SetNetwork(t.Context(), bad); api.ClassOf(err) != api.Invalid {
		t.Errorf("a policy that cannot be enforced: %v", err)
	}
	reaches(t, sb, w.URL(world.WWW, "/"))
}

func testNoNetwork(t *testing.T, w *world.World, c *smolvm.Client, sb *smolvm.Sandbox) {
	must[smolvm.Network](t)(sb.SetNetwork(t.Context(), smolvm.NetworkChange{Mode: api.NetworkNone}))
	if got := sh(t, sb, "cat /sys/class/net/eth0/operstate"); got != "down" {
		t.Errorf("the card is %s", got)
	}
	reachesNot(t, w, sb, w.URL(world.WWW, "/"))
	change := smolvm.NetworkChange{Policy: &api.Policy{Rules: []api.Rule{w.Allow(world.WWW)}}}
	must[smolvm.Network](t)(sb.SetNetwork(t.Context(), change))
	reaches(t, sb, w.URL(world.WWW, "/"))

	none := sandbox(t, c, smolvm.Spec{Name: "none", Network: api.Network{Mode: api.NetworkNone, DNS: []string{w.DNS}}})
	if got := sh(t, none, "cat /sys/class/net/eth0/operstate; ip route | wc -l"); got != "down\n0" {
		t.Errorf("the card is %s", got)
	}
	// Its root brings the card up, and is no wiser.
	sh(t, none, "ip link set eth0 up; ip route replace default via 198.19.77.1 dev eth0")
	if got := sh(t, none, "ping -c 1 -W 1 198.19.77.1 >/dev/null 2>&1; echo $?"); got == "0" {
		t.Error("somebody answers on a wire that is nobody's")
	}
	must[smolvm.Network](t)(none.SetNetwork(t.Context(), change))
	reaches(t, none, w.URL(world.WWW, "/"))
	if err := none.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func testNetworkKept(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	if err := sb.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
		t.Fatal(err)
	}
	n := must[smolvm.Network](t)(sb.Network(t.Context()))
	if n.Policy == nil || len(n.Policy.Rules) != 1 {
		t.Errorf("asleep its network is %+v", n)
	}
	must[smolvm.Network](t)(sb.SetNetwork(t.Context(), smolvm.NetworkChange{Add: []smolvm.Rule{w.Allow(world.NPM)}}))
	reachesAsTold(t, w, sb) // wakes it
	reaches(t, sb, w.URL(world.WWW, "/"))
	reachesNot(t, w, sb, w.URL(world.PyPI, "/simple/"))
	if got := fetch(t, sb, w.URL(world.NPM, "/")); got == "000" || strings.HasPrefix(got, "curl") {
		t.Errorf("what was allowed while it slept: %q", got)
	}
}

// reachesAsTold goes to where the guest was told that a site is, in a life before,
// without asking again.
func reachesAsTold(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	t.Helper()
	asked := w.Questions(world.WWW)
	url := w.URL(world.WWW, "/")
	resolve := fmt.Sprintf("--resolve %s:%d:198.19.77.1 ", world.WWW, w.HTTPS)
	if got := fetch(t, sb, resolve+url); got != "200" {
		t.Errorf("%s at the address that it had: %q, want 200", url, got)
	}
	if now := w.Questions(world.WWW); now != asked {
		t.Errorf("%s was asked for again", world.WWW)
	}
}

func testForkNetwork(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	children := must[[]*smolvm.Sandbox](t)(sb.Fork(t.Context(), smolvm.ForkOptions{N: 1}))
	child := children[0]
	reachesAsTold(t, w, child)
	reaches(t, child, w.URL(world.WWW, "/"))
	reachesNot(t, w, child, w.URL(world.PyPI, "/simple/"))
	must[smolvm.Network](t)(child.SetNetwork(t.Context(), smolvm.NetworkChange{Mode: api.NetworkNone}))
	reachesNot(t, w, child, w.URL(world.WWW, "/"))
	reaches(t, sb, w.URL(world.WWW, "/"))
	if err := child.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func testPoolNetwork(t *testing.T, w *world.World, c *smolvm.Client) {
	must[smolvm.Pool](t)(c.SetPool(t.Context(), smolvm.Pool{Size: 1}))
	defer func() { must[[]smolvm.Pool](t)(c.DrainPools(t.Context(), "")) }()
	eventually(t, func() bool {
		pools, err := c.Pools(t.Context())
		return err == nil && len(pools) == 1 && pools[0].Ready == 1
	})
	n := worldNetwork(w, world.WWW)
	n.QuotaMiB = 1
	sb := sandbox(t, c, smolvm.Spec{Name: "pooled", Network: n})
	if info := must[smolvm.Info](t)(sb.Info(t.Context())); info.Origin != "pool" {
		t.Errorf("made of %s", info.Origin)
	}
	reachesNot(t, w, sb, w.URL(world.PyPI, "/simple/"))
	reaches(t, sb, w.URL(world.WWW, "/"))
	testQuota(t, w, sb)
}

// testQuota uses up a quota, which a restart does not give back.
func testQuota(t *testing.T, w *world.World, sb *smolvm.Sandbox) {
	if got := fetch(t, sb, w.URL(world.WWW, "/bytes/3000000")); !strings.Contains(got, "curl") {
		t.Errorf("3 MB of a quota of 1 MiB: %q", got)
	}
	reachesNot(t, w, sb, w.URL(world.WWW, "/"))
	if err := sb.Stop(t.Context(), smolvm.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := sb.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	reachesNot(t, w, sb, w.URL(world.WWW, "/"))
}
