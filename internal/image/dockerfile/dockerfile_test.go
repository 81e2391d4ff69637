package dockerfile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/store"
)

// bench is an image store with a base image "base", a context directory and a
// fake for sandboxes.
type bench struct {
	t    *testing.T
	s    store.Store
	im   *image.Images
	host *host
	dir  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	im, err := image.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	base := makeTar("etc/passwd", "root:x:0:0::/:\nagent:x:1000:1001::/:\n", "etc/group", "staff:x:50:\n", "old", "1", "usr/lib/", "", "lib@", "usr/lib")
	_, err = im.ImportReader(t.Context(), bytes.NewReader(base), image.ImportOptions{
		Name: "base", Config: image.Config{Env: []string{"PATH=" + os.Getenv("PATH"), "FROM_BASE=yes"}, Cmd: []string{"basecmd"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, s, im, &host{t: t}, t.TempDir()}
}

// makeTar makes a tar of pairs: a name and its content, a name with a slash at
// its end for a directory, or with an @ and a target for a symbolic link.
func makeTar(pairs ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(pairs[i+1]))}
		switch {
		case strings.HasSuffix(h.Name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case strings.HasSuffix(h.Name, "@"):
			h.Name, h.Typeflag, h.Linkname, h.Size = strings.TrimSuffix(h.Name, "@"), tar.TypeSymlink, pairs[i+1], 0
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, pairs[i+1])
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) build(text string, o Options) (image.Image, string, error) {
	b.t.Helper()
	b.write("Dockerfile", text)
	var out bytes.Buffer
	o.Name, o.Context, o.Output = "built", b.dir, &out
	i, err := Build(b.t.Context(), b.im, b.host, o)
	if b.host.open != 0 {
		b.t.Errorf("%d sandboxes were left running", b.host.open)
	}
	if left, err := os.ReadDir(b.s.Tmp()); err != nil || len(left) != 0 {
		b.t.Errorf("left in tmp: %v, %v", left, err)
	}
	return i, out.String(), err
}

func (b *bench) must(text string, o Options) image.Image {
	b.t.Helper()
	i, out, err := b.build(text, o)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	return i
}

func TestBuildFiles(t *testing.T) {
	b := newBench(t)
	b.write("a.txt", "A")
	b.write("b.txt", "B")
	b.write("src/x", "X")
	b.write("src/sub/y", "Y")
	b.write("src/skip.log", "no")
	b.write("src/keep.log", "yes")
	b.write(".dockerignore", "**/*.log\n!src/keep.log\nsecret\n")
	b.write("secret/s", "no")
	if err := os.Symlink("x", filepath.Join(b.dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(makeTar("p/q", "Q"))
	z.Close()
	b.write("pack.tgz", packed.String())
	for _, c := range []struct{ name, text, want string }{
		{"file to file", "FROM scratch\nCOPY a.txt /x/y", "x/ x/y=A"},
		{"file to directory", "FROM scratch\nCOPY a.txt /x/", "x/ x/a.txt=A"},
		{"file into one that is there", "FROM scratch\nWORKDIR /w\nCOPY a.txt /w", "w/ w/a.txt=A"},
		{"relative", "FROM scratch\nWORKDIR /w\nCOPY a.txt .\nCOPY b.txt c", "w/ w/a.txt=A w/c=B"},
		{"workdir on workdir", "FROM scratch\nWORKDIR /w\nWORKDIR v\nCOPY a.txt ./", "w/ w/v/ w/v/a.txt=A"},
		{"pattern", "FROM scratch\nCOPY *.txt /", "a.txt=A b.txt=B"},
		{"several", "FROM scratch\nCOPY a.txt b.txt /d/", "d/ d/a.txt=A d/b.txt=B"},
		{"directory", "FROM scratch\nCOPY src /d", "d/ d/keep.log=yes d/link->x d/sub/ d/sub/y=Y d/x=X"},
		{"mode", "FROM scratch\nCOPY --chmod=600 a.txt /d/", "d/ d/a.txt(600)=A"},
		{"through a link", "FROM base\nCOPY a.txt /lib/", "etc/ etc/group=staff:x:50: etc/passwd=root:x:0:0::/:\nagent:x:1000:1001::/: lib->usr/lib old=1 usr/ usr/lib/ usr/lib/a.txt=A"},
		{"here-document", "FROM scratch\nCOPY <<one <<two /d/\n1\none\n2\ntwo\n", "d/ d/one=1 d/two=2"},
		{"variables", "ARG N=a\nFROM scratch\nARG N\nENV D=/d\nCOPY ${N}.txt $D/${N:-x}", "d/ d/a=A"},
		{"add unpacks", "FROM scratch\nADD pack.tgz /d", "d/ d/p/ d/p/q=Q"},
		{"copy does not", "FROM scratch\nCOPY a.txt /pack\nADD a.txt /d/", "d/ d/a.txt=A pack=A"},
		{"stages", "FROM scratch AS one\nCOPY src /s\nFROM scratch\nCOPY --from=one /s/sub /s/link /d/", "d/ d/link=X d/y=Y"},
		{"stage by number", "FROM scratch\nCOPY a.txt /\nFROM scratch\nCOPY --from=0 /*.txt /z/", "z/ z/a.txt=A"},
		{"from a stage", "FROM scratch AS one\nCOPY a.txt /\nFROM one\nCOPY b.txt /", "a.txt=A b.txt=B"},
		{"from an image", "FROM scratch\nCOPY --from=base /old /lib /d/", "d/ d/old=1"},
	} {
		i, out, err := b.build(c.text, Options{})
		if err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, out)
			continue
		}
		if got := list(t, i); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	if b.host.started != 0 {
		t.Errorf("%d sandboxes were started; none is needed", b.host.started)
	}
}

func TestBuildOwner(t *testing.T) {
	b := newBench(t)
	b.write("f", "1")
	i := b.must("FROM base\nCOPY --chown=agent f /a\nCOPY --chown=agent:staff f /b\nCOPY --chown=7 f /c\nCOPY --chown=7:8 f /d/e\nCOPY f /f", Options{})
	for name, want := range map[string]string{
		"/a": `User:\s+1000\s+Group:\s+1001\s`, "/b": `User:\s+1000\s+Group:\s+50\s`, "/c": `User:\s+7\s+Group:\s+7\s`,
		"/d": `User:\s+7\s+Group:\s+8\s`, "/d/e": `User:\s+7\s+Group:\s+8\s`, "/f": `User:\s+0\s+Group:\s+0\s`,
	} {
		out, err := exec.Command("/usr/sbin/debugfs", "-R", "stat "+name, i.RootFS).Output()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestBuildConfig(t *testing.T) {
	b := newBench(t)
	i := b.must(`FROM base
ENV A=1 B="two words"
ENV C=$A-$FROM_BASE
ARG X=9
LABEL l1=v1 l2="$X"
USER agent
WORKDIR /srv
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
SHELL ["/bin/bash", "-c"]
CMD echo hi
ENTRYPOINT ["/init"]
CMD ["a", "b"]
HEALTHCHECK --interval=5s CMD true
`, Options{})
	c := i.Config
	c.Env = slices.DeleteFunc(c.Env, func(s string) bool { return strings.HasPrefix(s, "PATH=") })
	got := fmt.Sprintf("%q", []any{c.Env, c.WorkingDir, c.User, c.Entrypoint, c.Cmd, c.Labels, c.Shell, c.StopSignal, c.ExposedPorts, c.Volumes})
	want := `[["FROM_BASE=yes" "A=1" "B=two words" "C=1-yes"] "/srv" "agent" ["/init"] ["a" "b"] map["l1":"v1" "l2":"9"] ["/bin/bash" "-c"] "SIGINT" ["53/udp" "80/tcp"] ["/data"]]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if i := b.must("FROM base\nCMD echo hi", Options{}); fmt.Sprintf("%q", i.Config.Cmd) != `["/bin/sh" "-c" "echo hi"]` {
		t.Errorf("shell form: %q", i.Config.Cmd)
	}
	if i := b.must("FROM base\nENTRYPOINT [\"x\"]", Options{}); len(i.Config.Cmd) != 0 {
		t.Errorf("the base's arguments stayed: %q", i.Config.Cmd)
	}
}

func TestBuildRun(t *testing.T) {
	b := newBench(t)
	b.write("in", "in")
	const text = `FROM base AS one
RUN echo one > one; rm old
COPY in /copied
WORKDIR /w
ARG WHO=nobody
ENV GREET=hello
USER agent
RUN cat ../copied > two && echo $GREET $WHO >> two
RUN <<EOF
echo three > three
EOF
RUN cat <<END > four
f$GREET
END
RUN <<EOF
#!/usr/bin/env python3
open("five", "w").write("5")
EOF
RUN ["sh", "-c", "echo six > six"]
FROM scratch
COPY --from=one /one /w/ /
`
	i, out, err := b.build(text, Options{Args: map[string]string{"WHO": "world", "TYPO": "x"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, want := list(t, i), "five=5 four=fhello one=one six=six three=three two=inhello world"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if b.host.started != 1 {
		t.Errorf("%d sandboxes for one stage", b.host.started)
	}
	if !strings.Contains(out, "no ARG TYPO") {
		t.Errorf("no warning of a value that nobody asked for:\n%s", out)
	}
	r := b.host.ran[1]
	if r.Dir != "/w" || r.User != "agent" || !slices.Contains(r.Env, "WHO=world") {
		t.Errorf("request %+v", r)
	}
	testCache(t, b, text)
}

// testCache builds again with nothing changed, then with something.
func testCache(t *testing.T, b *bench, text string) {
	args := map[string]string{"WHO": "world"}
	again := func(what string, o Options, starts int) {
		t.Helper()
		b.host.started = 0
		o.Args = args
		b.must(text, o)
		if b.host.started != starts {
			t.Errorf("%s: %d sandboxes, want %d", what, b.host.started, starts)
		}
	}
	again("nothing changed", Options{}, 0)
	again("without the cache", Options{NoCache: true}, 1)
	b.write("in", "other")
	again("a copied file changed", Options{}, 1)
	again("and nothing again", Options{}, 0)
	if err := os.Chtimes(filepath.Join(b.dir, "in"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	again("only a time changed", Options{}, 0)
	args["WHO"] = "you"
	again("an ARG changed", Options{}, 1)
	if _, err := b.im.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	again("after a clean-up", Options{}, 0)
	if _, err := b.im.Prune(t.Context(), image.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	again("after prune", Options{}, 1)
}

func TestBuildTarget(t *testing.T) {
	b := newBench(t)
	b.write("a", "1")
	const text = "FROM scratch AS one\nCOPY a /one\nFROM base AS two\nRUN exit 1\nFROM one AS three\nCOPY a /three"
	if got := list(t, b.must(text, Options{})); got != "one=1 three=1" {
		t.Errorf("a stage that nobody needs was built, or: %s", got)
	}
	if got := list(t, b.must(text, Options{Target: "one"})); got != "one=1" {
		t.Errorf("target one: %s", got)
	}
}

func TestBuildRefuses(t *testing.T) {
	b := newBench(t)
	b.write("a", "1")
	b.write("bad.tar", string(makeTar("../x", "1")))
	if err := os.Symlink("/etc/passwd", filepath.Join(b.dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "file with no instructions"},
		{"no from", "RUN true", "no build stage"},
		{"unknown instruction", "FROM scratch\nFLY away", "line 2"},
		{"bad flag", "FROM base\n\nRUN --mount=type=cache,target=/x true", "line 3: RUN does not have the flag --mount"},
		{"run network", "FROM base\nRUN --network=none true", "--network"},
		{"copy parents", "FROM base\nCOPY --parents a /", "--parents"},
		{"copy exclude", "FROM base\nCOPY --exclude=x a /", "--exclude"},
		{"add checksum", "FROM base\nADD --checksum=sha256:00 a /", "--checksum"},
		{"add of an address", "FROM base\nADD https://example.com/x /", "line 2: ADD https://example.com/x: a build has no network"},
		{"add of a repository", "FROM base\nADD git@example.com:x.git /", "no network"},
		{"missing source", "FROM base\nCOPY none /", `line 2: source "none"`},
		{"pattern of nothing", "FROM base\nCOPY none* /", `"none*"`},
		{"leaves the context", "FROM base\nCOPY ../../etc/passwd /", `"etc/passwd"`},
		{"link leaves the context", "FROM base\nCOPY out /", `source "out"`},
		{"hostile archive", "FROM base\nADD bad.tar /d/", "leads upwards"},
		{"many into one", "FROM base\nCOPY a Dockerfile /one", "do not fit into one file"},
		{"bad mode", "FROM base\nCOPY --chmod=u+x a /", "--chmod=u+x"},
		{"unknown user", "FROM base\nCOPY --chown=nobody2 a /", `"nobody2"`},
		{"unknown stage", "FROM scratch\nCOPY --from=none.invalid:1/x /a /", "line 2"},
		{"missing in stage", "FROM scratch AS s\nCOPY a /\nFROM scratch\nCOPY --from=s /b /", `"/b" is not in the stage`},
		{"other platform", "FROM --platform=linux/s390x base", "--platform=linux/s390x"},
		{"empty base", "FROM $NONE", "line 1"},
		{"run fails", "FROM base\nRUN exit 3", "line 2: RUN exited with 3"},
		{"bad variable", "FROM base\nENV A=${B", "line 2"},
	} {
		_, out, err := b.build(c.text, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q\n%s", c.name, err, c.want, out)
		}
		if err != nil && api.ClassOf(err) == api.Internal {
			t.Errorf("%s: class internal: %v", c.name, err)
		}
	}
	if _, _, err := b.build("FROM scratch\nCOPY a /", Options{Target: "none"}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("unknown target: %v", err)
	}
	if _, err := b.im.Resolve(t.Context(), "built"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a failed build left an image: %v", err)
	}
}

func TestBuildCancelled(t *testing.T) {
	b := newBench(t)
	b.write("Dockerfile", "FROM base\nRUN echo started; exec sleep 100")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := Options{Name: "built", Context: b.dir, Output: writerFunc(func(p []byte) (int, error) {
		if bytes.Equal(p, []byte("started\n")) {
			cancel()
		}
		return len(p), nil
	})}
	if _, err := Build(ctx, b.im, b.host, o); err == nil {
		t.Error("a cancelled build succeeded")
	}
	if left, err := os.ReadDir(b.s.Tmp()); b.host.open != 0 || err != nil || len(left) != 0 {
		t.Errorf("left: %d sandboxes, %v, %v", b.host.open, left, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
