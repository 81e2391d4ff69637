package smolvm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

// TestVMClients lets the programs that everybody uses out of one guest, by policy
// alone and with their TLS opened, and has each try what it may not.
func TestVMClients(t *testing.T) {
	image, c, w := testenv.ClientsImage(t), client(t), world.Start(t)
	t.Setenv("SSL_CERT_FILE", w.CAFile) // whom the supervisor believes
	sb := sandbox(t, c, smolvm.Spec{
		Name: "clients", Image: image, CPUs: 2, MemoryMiB: 1024,
		Network: api.Network{DNS: []string{w.DNS}, Policy: sitesByName(w)},
	})
	g := guestWithClients{sb, w}
	t.Run("by name", g.testByName)
	t.Run("elsewhere", g.testElsewhere)
	t.Run("opened", g.testOpened)
	t.Run("record", g.testRecord)
}

// sitesByName allows the world's sites, whatever is asked there.
func sitesByName(w *world.World) *api.Policy {
	return &api.Policy{Rules: []api.Rule{w.Allow(world.WWW, world.WS, world.Git, world.PyPI, world.NPM, world.Deb)}}
}

// sitesByRequest allows what the clients' lines ask for and nothing else.
func sitesByRequest(w *world.World) *api.Policy {
	rule := func(site string, methods []string, paths ...string) api.Rule {
		r := w.Allow(site)
		r.Methods, r.Paths = methods, paths
		return r
	}
	get, post := []string{"GET"}, []string{"GET", "POST"}
	return &api.Policy{Rules: []api.Rule{
		rule(world.WWW, post),
		rule(world.WS, nil, "/echo"),
		rule(world.Git, post, "/demo.git/info/refs", "/demo.git/git-upload-pack"),
		rule(world.PyPI, get, "/simple/smolworld", "/simple/smolworld-base", "/files"),
		rule(world.NPM, get, "/smolworld", "/smolworld-base"),
		rule(world.Deb, get, "/dists/stable", "/pool"),
	}}
}

// guestWithClients is a sandbox in a world.
type guestWithClients struct {
	sb *smolvm.Sandbox
	w  *world.World
}

// guestRoots is where the guest keeps all authorities.
const guestRoots = "/etc/ssl/certs/ca-certificates.crt"

// testByName runs the clients from end to end: the guest believes the world's own
// CA. Update-ca-certificates would do that in a minute of emulation.
func (g guestWithClients) testByName(t *testing.T) {
	const ca = "/root/world.pem"
	if err := g.sb.WriteFile(t.Context(), ca, bytes.NewReader(g.w.CA), smolvm.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	sh(t, g.sb, "cp "+guestRoots+" /root/roots && cat "+ca+" >> "+guestRoots)
	// Node has a list of its own; Python looks for hashes, which are not there.
	env := map[string]string{"NODE_EXTRA_CA_CERTS": ca, "SSL_CERT_FILE": guestRoots}
	for _, p := range guestClients() {
		if p.store {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			g.w.Reset()
			out, ok := g.run(t, p.line, env)
			if !ok || !strings.Contains(out, p.want) {
				t.Fatalf("%s\nprinted: %s", p.line, out)
			}
			g.arrived(t, p)
		})
	}
}

// testElsewhere tries a name that is not allowed.
func (g guestWithClients) testElsewhere(t *testing.T) {
	const elsewhere = "elsewhere." + world.Zone
	g.w.SetAddresses(elsewhere, netip.MustParseAddr("127.0.0.1"))
	for line, want := range map[string]string{
		"curl -sS https://elsewhere.example.test:$HTTPS/":                        "Could not resolve host",
		"git ls-remote https://elsewhere.example.test:$HTTPS/demo.git":           "Could not resolve host",
		`python3 -c 'import socket; socket.getaddrinfo("` + elsewhere + `", 1)'`: "Name or service not known",
	} {
		if out, ok := g.run(t, line, nil); ok || !strings.Contains(out, want) {
			t.Errorf("%s: %s", line, out)
		}
	}
	if n := g.w.Questions(elsewhere); n != 0 {
		t.Errorf("%d questions for a name that is not allowed got out", n)
	}
	g.follow(t, func(e api.NetworkEntry) bool {
		return e.Kind == api.EventDNS && e.Host == elsewhere && e.Verdict == api.PolicyDeny && e.Reason != ""
	})
}

// testOpened runs the clients with TLS opened for rules about requests. The guest
// forgets the world's CA first: it must believe the sandbox's, and does so because
// of the change.
func (g guestWithClients) testOpened(t *testing.T) {
	sh(t, g.sb, "rm -f /root/world.pem; if [ -f /root/roots ]; then mv /root/roots "+guestRoots+"; fi")
	if _, err := g.sb.SetNetwork(t.Context(), smolvm.NetworkChange{Policy: sitesByRequest(g.w)}); err != nil {
		t.Fatal(err)
	}
	for _, p := range guestClients() {
		t.Run(p.name, func(t *testing.T) {
			g.w.Reset()
			out, ok := g.run(t, p.line, nil)
			if !ok || !strings.Contains(out, p.want) {
				t.Fatalf("%s\nprinted: %s", p.line, out)
			}
			g.arrived(t, p)
			out, _ = g.run(t, p.denied, nil)
			if !strings.Contains(out, p.reason) {
				t.Errorf("%s\nprinted no %q: %s", p.denied, p.reason, out)
			}
			for _, r := range g.w.Requests(p.site) {
				if r.Method+" "+r.Path == p.kept {
					t.Errorf("%s got out", p.kept)
				}
			}
			g.recorded(t, p)
		})
	}
}

// run runs a line and returns all that it printed.
func (g guestWithClients) run(t *testing.T, line string, env map[string]string) (out string, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTime)
	defer cancel()
	line = strings.NewReplacer("$HTTPS", strconv.Itoa(g.w.HTTPS), "$HTTP", strconv.Itoa(g.w.HTTP)).Replace(line)
	cmd := smolvm.ShellCommand("exec 2>&1; " + line)
	// Without new tries of what is refused for good.
	cmd.Env = map[string]string{"PIP_RETRIES": "0", "npm_config_fetch_retries": "0"}
	maps.Copy(cmd.Env, env)
	begin := time.Now()
	res, err := g.sb.Run(ctx, cmd)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	t.Logf("%.1f s: %s\n%s", time.Since(begin).Seconds(), line, res.Stdout)
	return string(res.Stdout), res.OK()
}

// arrived wants a client's requests to have reached the world.
func (g guestWithClients) arrived(t *testing.T, p guestClient) {
	t.Helper()
	var got []string
	for _, r := range g.w.Requests(p.site) {
		got = append(got, r.Method+" "+r.Path)
	}
	for _, want := range p.out {
		if !slices.Contains(got, want) {
			t.Errorf("%s did not arrive; what did: %q", want, got)
		}
	}
}

// guestClient is a program in the guest and what it does in a test.
type guestClient struct {
	name  string
	site  string
	store bool // it has authorities of its own, which an administrator fills

	line string   // does what is allowed
	want string   // in what that prints
	out  []string // requests that must arrive: method and path

	denied string // does what interception denies
	reason string // in what that prints
	kept   string // the request that must not arrive
}

// clientTime bounds one program under emulation, on a machine that does other
// things as well.
const clientTime = 10 * time.Minute

// guestClients lists what people use. Lines get the world's ports as $HTTPS and
// $HTTP, and nothing that makes them believe a certificate.
func guestClients() []guestClient {
	return []guestClient{{
		name: "curl", site: world.WWW,
		line: `curl -sS --fail -w "%{http_version} " https://www.example.test:$HTTPS/ && curl -sS --fail --http1.1 -d posted https://www.example.test:$HTTPS/echo`,
		want: "\n2 posted", out: []string{"GET /", "POST /echo"},
		denied: `curl -sS --fail-with-body -X DELETE https://www.example.test:$HTTPS/echo`,
		reason: "smolvm: 403 Forbidden", kept: "DELETE /echo",
	}, {
		name: "curl without TLS", site: world.WWW,
		line: `curl -sS --fail http://www.example.test:$HTTP/bytes/5000 | wc -c`,
		want: "5000", out: []string{"GET /bytes/5000"},
		denied: `curl -sS --fail-with-body -X DELETE http://www.example.test:$HTTP/echo`,
		reason: "smolvm: 403 Forbidden", kept: "DELETE /echo",
	}, {
		name: "git", site: world.Git,
		line: `rm -rf /tmp/demo && git clone -q https://git.example.test:$HTTPS/demo.git /tmp/demo && cat /tmp/demo/hello.txt`,
		want: "hello from git", out: []string{"GET /demo.git/info/refs?service=git-upload-pack", "POST /demo.git/git-upload-pack"},
		denied: `git ls-remote https://git.example.test:$HTTPS/evil.git
			cd /tmp/demo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m no && git push -q origin HEAD:refs/heads/stolen`,
		reason: "remote: smolvm: 403 Forbidden", kept: "POST /demo.git/git-receive-pack",
	}, {
		name: "pip", site: world.PyPI,
		line: `pip install -q --no-cache-dir --force-reinstall --root-user-action=ignore --index-url https://pypi.example.test:$HTTPS/simple smolworld &&
			python3 -c 'import smolworld, smolworld_base; print(smolworld.NAME, smolworld_base.NAME)'`,
		want:   "smolworld smolworld-base",
		out:    []string{"GET /simple/smolworld/", "GET /files/smolworld_base-1.2.3-py3-none-any.whl"},
		denied: `pip install --no-cache-dir https://pypi.example.test:$HTTPS/evil/evil-1.0-py3-none-any.whl`,
		reason: "403", kept: "GET /evil/evil-1.0-py3-none-any.whl",
	}, {
		name: "npm", site: world.NPM,
		line: `rm -rf /tmp/npm ~/.npm && mkdir /tmp/npm && cd /tmp/npm && npm install --no-audit --no-fund --registry https://npm.example.test:$HTTPS/ smolworld &&
			node -p 'require("smolworld") + " " + require("smolworld-base")'`,
		want:   "smolworld smolworld-base",
		out:    []string{"GET /smolworld", "GET /smolworld-base/-/smolworld-base-1.2.3.tgz"},
		denied: `cd /tmp/npm && npm install --no-audit --no-fund --registry https://npm.example.test:$HTTPS/ evil`,
		reason: "403", kept: "GET /evil",
	}, {
		name: "node fetch", site: world.WWW,
		line: `node -e 'fetch("https://www.example.test:$HTTPS/echo?node", {method: "POST", body: "posted"}).then(r => r.text()).then(console.log)'`,
		want: "posted", out: []string{"POST /echo?node"},
		denied: `node -e 'fetch("https://www.example.test:$HTTPS/echo?node", {method: "PUT", body: "no"}).then(async r => console.log(r.status, await r.text()))'`,
		reason: "smolvm: 403 Forbidden", kept: "PUT /echo?node",
	}, {
		name: "requests", site: world.WWW,
		line: `python3 -c 'import requests; s = requests.Session(); u = "https://www.example.test:$HTTPS/"
print(s.get(u + "headers", headers={"X-A": "b"}).json()["X-A"], s.post(u + "echo?py", data="posted").text)'`,
		want: "['b'] posted", out: []string{"GET /headers", "POST /echo?py"},
		denied: `python3 -c 'import requests; r = requests.patch("https://www.example.test:$HTTPS/echo?py", data="no"); print(r.status_code, r.text)'`,
		reason: "smolvm: 403 Forbidden", kept: "PATCH /echo?py",
	}, {
		name: "websockets", site: world.WS,
		line: pythonSocket("/echo"),
		want: "hi 100000", out: []string{"GET /echo"},
		denied: pythonSocket("/other"),
		reason: "HTTP 403", kept: "GET /other",
	}, {
		name: "apt", site: world.Deb,
		line: `rm -rf /var/lib/apt/lists/* && apt-get clean && echo "deb [trusted=yes] https://deb.example.test:$HTTPS/ stable main" > /etc/apt/sources.list && apt-get update && apt-get install -y --reinstall smolvm-world && cat /usr/share/smolvm-world/hello`,
		want: "hello from apt", out: []string{"GET /dists/stable/Release", "GET /pool/smolvm-world_1.2.3_all.deb"},
		denied: `echo "deb [trusted=yes] https://deb.example.test:$HTTPS/evil stable main" > /etc/apt/sources.list && apt-get update -o APT::Update::Error-Mode=any`,
		reason: "403", kept: "GET /evil/dists/stable/InRelease",
	}, {
		name: "Java", site: world.WWW, store: true,
		line: "cd /tmp && cat > Fetch.java <<'END'\n" + javaFetch + `END
			` + java + ` -m jdk.compiler/com.sun.tools.javac.Main -proc:none Fetch.java && ` + java + ` -cp . Fetch GET https://www.example.test:$HTTPS/headers?java`,
		want: "200", out: []string{"GET /headers?java"},
		denied: java + ` -cp /tmp Fetch DELETE https://www.example.test:$HTTPS/headers?java`,
		reason: "smolvm: 403 Forbidden", kept: "DELETE /headers?java",
	}}
}

// java is Java for little time, most of which an emulated processor would spend on
// its second compiler.
const java = "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

// javaFetch asks by the client that comes with Java.
const javaFetch = `import java.net.URI;
import java.net.http.*;

public class Fetch {
	public static void main(String[] args) throws Exception {
		var request = HttpRequest.newBuilder(URI.create(args[1])).method(args[0], HttpRequest.BodyPublishers.noBody()).build();
		var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
		System.out.println(answer.statusCode() + " " + answer.body());
	}
}
`

func pythonSocket(path string) string {
	return `python3 -c 'import asyncio, websockets
async def main():
    async with websockets.connect("wss://ws.example.test:$HTTPS` + path + `") as s:
        await s.send("hi"); a = await s.recv(); await s.send(b"x" * 100000); print(a, len(await s.recv()))
asyncio.run(main())'`
}

// recorded wants the record to have a client's requests as they were.
func (g guestWithClients) recorded(t *testing.T, p guestClient) {
	t.Helper()
	missing := map[string]func(api.NetworkEntry) bool{}
	for _, r := range p.out {
		missing[r] = func(e api.NetworkEntry) bool {
			return e.Verdict == api.PolicyAllow && e.Rule != "" && (e.HTTP.Status == 200 || e.HTTP.Status == 101)
		}
	}
	missing[p.kept] = func(e api.NetworkEntry) bool {
		return e.Verdict == api.PolicyDeny && e.Reason != "" && e.HTTP.Status == 403
	}
	g.follow(t, func(e api.NetworkEntry) bool {
		if e.Kind == api.EventHTTP && e.Host == p.site {
			request := e.HTTP.Method + " " + e.HTTP.Path
			if is := missing[request]; is != nil && is(e) {
				delete(missing, request)
			}
		}
		return len(missing) == 0
	})
	for request := range missing {
		t.Errorf("the record does not have %s as it was", request)
	}
}

// testRecord looks at the record as a whole. A busy guest does not always say in
// time whose a request was, but it cannot be that it never does.
func (g guestWithClients) testRecord(t *testing.T) {
	if r := must[smolvm.NetworkReport](t)(g.sb.VerifyNetworkLog(t.Context())); r.Entries == 0 || len(r.Problems) > 0 {
		t.Errorf("the record is not as it was written: %+v", r)
	}
	processes := 0
	err := g.sb.NetworkLog(t.Context(), smolvm.NetworkLogOptions{Denied: true}, func(e api.NetworkEntry) error {
		if e.Kind == api.EventHTTP && e.Process != nil && len(e.Process.Argv) > 0 {
			processes++
		}
		return nil
	})
	if err != nil || processes == 0 {
		t.Errorf("no denied request has its process: %v", err)
	}
}

// entryTime is how long an entry may take to be in the record when the client has
// its answer.
const entryTime = 10 * time.Second

// follow reads the record until f has what it wants.
func (g guestWithClients) follow(t *testing.T, f func(api.NetworkEntry) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), entryTime)
	defer cancel()
	enough := errors.New("enough")
	var read strings.Builder
	err := g.sb.NetworkLog(ctx, smolvm.NetworkLogOptions{Follow: true}, func(e api.NetworkEntry) error {
		if f(e) {
			return enough
		}
		fmt.Fprintf(&read, "%s %s %s %+v %+v %s\n", e.Kind, e.Verdict, e.Host, e.HTTP, e.Process, e.Reason)
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("something is not in the record (%v), which is:\n%s", err, &read)
	}
}
