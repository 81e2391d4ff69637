package archtest

import (
	"slices"
	"strings"
	"testing"
)

// ban says that packages must not need others, not even by way of a third.
type ban struct {
	who    string // path in the module, perhaps with /...
	needs  string // import path, perhaps with /...; our own without the module
	reason string
}

var bans = []ban{
	{".", "internal/image/...", "the SDK links no registries and no parsers into its users' programs"},
	{".", "internal/vmm/qemu/...", "drivers are wired in cmd/smolvm alone"},
	{".", "internal/supervisor", "a client is no supervisor; it starts one"},
	{".", "internal/cli", "the SDK lies below the CLI"},
	{".", "github.com/spf13/cobra/...", "the SDK has no command line"},
	{"internal/cli", "internal/supervisor", "the CLI goes through the SDK; one path for all doors"},
	{"internal/cli", "internal/vmm/qemu/...", "drivers are wired in cmd/smolvm alone"},
	{"internal/setup", "internal/vmm/qemu/...", "drivers are wired in cmd/smolvm alone"},
	{"internal/manager", "internal/vmm/...", "the manager starts supervisors; those own machines"},
	{"internal/manager", "internal/supervisor", "manager and supervisor share internal/control and nothing else"},
	{"internal/manager", "internal/image/...", "images are the supervisor's business, by its Provider"},
	{"internal/supervisor", "internal/vmm/qemu/...", "the supervisor knows the contract, not a driver"},
	{"internal/supervisor", "internal/image/...", "images come through the supervisor's Provider"},
	{"internal/supervisor", "internal/manager", "the manager starts supervisors, not the other way"},
	{"internal/image/...", "internal/supervisor", "images lie below sandboxes"},
	{"internal/image/...", "internal/vmm/...", "images know no machines"},
	{"internal/vmm/...", "internal/image/...", "machines are given files, not images"},
	{"internal/vmm/...", "internal/supervisor", "drivers lie below the supervisor"},
	{"internal/vmm/qemu/...", "internal/vmm/fake", "drivers do not know each other"},
	{"cmd/smolvm-agent", "encoding/json", "under emulation each page of code that the agent touches must be translated first"},
	{"cmd/smolvm-agent", "net/http", "the agent speaks its own small protocol"},
	{"cmd/smolvm", "testing", "tests are not shipped"},
}

func TestBans(t *testing.T) {
	for _, b := range bans {
		checkBan(t, b)
	}
}

func checkBan(t *testing.T, b ban) {
	t.Helper()
	who, known := 0, false
	for _, p := range all(t) {
		known = known || below(relative(p.ImportPath), b.needs)
		if !below(p.ImportPath, module+"/...") || !below(p.rel(), b.who) {
			continue
		}
		who++
		for _, d := range p.Deps {
			if below(relative(d), b.needs) {
				t.Errorf("%s needs %s: %s", p.rel(), relative(d), b.reason)
			}
		}
	}
	// A ban on what is not there would look like a check and be none.
	if who == 0 {
		t.Errorf("ban of %s: there is no package %s", b.needs, b.who)
	}
	if !known && b.needs != "testing" && b.needs != "net/http" {
		t.Errorf("ban for %s: nothing here is called %s", b.who, b.needs)
	}
}

// onlyIn says which packages alone may import something themselves.
var onlyIn = []struct {
	what   string
	where  []string
	reason string
}{
	{"internal/vmm/qemu", []string{"cmd/smolvm", "bench", "internal/guest/guesttest"}, "drivers are wired in one place; bench and guesttest use one as it is"},
	{"internal/vmm/fake", []string{"internal/testenv/fakehost"}, "it is for tests"},
	{"internal/cli", []string{"cmd/smolvm"}, "the CLI is the top"},
	{"internal/supervisor", []string{"cmd/smolvm", "internal/testenv/fakehost"}, "the supervisor is a process, not a library"},
	{"github.com/google/go-containerregistry/...", []string{"internal/image/..."}, "one place knows registries"},
	{"github.com/moby/buildkit/...", []string{"internal/image/..."}, "one place knows Dockerfiles"},
	{"github.com/spf13/...", []string{"internal/cli"}, "one place knows the command line"},
	{"gvisor.dev/gvisor/...", []string{"internal/netstack/..."}, "one place knows the guest's packets"},
	{"software.sslmate.com/src/go-pkcs12", []string{"internal/intercept"}, "one place makes certificates"},
	{"github.com/miekg/dns", []string{"internal/netstack", "internal/testenv/world"}, "one place knows DNS messages; the name server of tests must not share its faults"},
	{"github.com/danielgtaylor/huma/...", []string{"internal/gateway"}, "one place knows how routes are described"},
	{"github.com/prometheus/...", []string{"internal/gateway"}, "one place measures for others"},
	{"github.com/modelcontextprotocol/...", []string{"internal/mcpserver"}, "one place knows the protocol of models"},
	{"os/signal", []string{"cmd/smolvm", "cmd/smolvm-agent", "internal/cli", "internal/supervisor", "internal/guest/agent/...", "bench"}, "signals are for processes, not for libraries"},
}

func TestOnlyIn(t *testing.T) {
	for _, o := range onlyIn {
		for _, p := range ours(t) {
			allowed := slices.ContainsFunc(o.where, func(w string) bool { return below(p.rel(), w) })
			for _, i := range p.Imports {
				if below(relative(i), o.what) && !allowed && !below(p.rel(), o.what) {
					t.Errorf("%s imports %s: %s", p.rel(), relative(i), o.reason)
				}
			}
		}
	}
}

// closed lists, for packages that must stay small, all they may need beyond the
// standard library.
var closed = map[string][]string{
	"api":                 {},
	"internal/guest/wire": {},
	"internal/undo":       {},
	"cmd/smolvm-agent": {
		"api", "internal/guest", "internal/guest/agent/...", "internal/guest/copytar", "internal/guest/mux", "internal/guest/wire", "internal/undo",
		"golang.org/x/sys/unix",
	},
}

func TestClosedLists(t *testing.T) {
	standard := map[string]bool{}
	for _, p := range all(t) {
		standard[p.ImportPath] = p.Standard
	}
	found := 0
	for _, p := range ours(t) {
		may, ok := closed[p.rel()]
		if !ok {
			continue
		}
		found++
		used := map[string]bool{}
		for _, d := range p.Deps {
			i := slices.IndexFunc(may, func(m string) bool { return below(relative(d), m) })
			if i >= 0 {
				used[may[i]] = true
			} else if !standard[d] && d != p.ImportPath {
				t.Errorf("%s needs %s, which its closed list does not have", p.rel(), relative(d))
			}
		}
		if len(used) != len(may) {
			t.Errorf("%s needs only %d of the %d on its closed list: shorten it", p.rel(), len(used), len(may))
		}
	}
	if found != len(closed) {
		t.Errorf("%d of the %d packages with closed lists were found", found, len(closed))
	}
}

// TestAPIDoesNoIO keeps package api a vocabulary.
func TestAPIDoesNoIO(t *testing.T) {
	for _, p := range ours(t) {
		if p.rel() != "api" {
			continue
		}
		for _, i := range p.Imports {
			if i == "net/netip" { // addresses as values
				continue
			}
			if i == "io" || i == "net" || i == "os" || strings.HasPrefix(i, "net/") || strings.HasPrefix(i, "os/") {
				t.Errorf("api imports %s: it does no input or output", i)
			}
		}
	}
}
