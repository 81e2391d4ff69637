package smolvm_test

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/testenv"
)

// mounted is a sandbox with two folders of the host: /ro with a layer over it, and
// /work that it may change.
type mounted struct {
	*smolvm.Sandbox
	c        *smolvm.Client
	ro, work string // on the host
	mounts   []smolvm.Mount
}

// TestVMMounts boots one sandbox with folders of the host and lives its life.
func TestVMMounts(t *testing.T) {
	m := &mounted{c: client(t), ro: t.TempDir(), work: t.TempDir()}
	m.mounts = []smolvm.Mount{{Host: m.ro, Guest: "/ro"}, {Host: m.work, Guest: "/work", Writable: true}}
	put(t, m.ro+"/d/file", "host")
	put(t, m.work+"/d/file", "host")
	put(t, filepath.Dir(m.ro)+"/secret", "secret")
	os.Symlink("../../secret", m.ro+"/d/up")
	os.Symlink(filepath.Dir(m.ro)+"/secret", m.work+"/out")
	makeRepository(t, m.ro+"/repo")
	makePackages(t, m.ro+"/npm", m.work+"/npm")
	m.Sandbox = sandbox(t, m.c, smolvm.Spec{Image: testenv.ClientsImage(t), MemoryMiB: 1024, Mounts: m.mounts})
	for _, tt := range []struct {
		name string
		f    func(*testing.T, *mounted)
	}{
		{"read", mountRead},
		{"layer", mountLayer},
		{"write", mountWrite},
		{"host changes", mountHostChanges},
		{"hibernate", mountHibernate},
		{"fork", mountFork},
		{"snapshot", mountSnapshot},
		{"rewind", mountRewind},
		{"times", mountTimes},
		{"stop and start", mountStop},
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.f(t, m) }) {
			t.Log(sh(t, m.Sandbox, "dmesg | tail -5; grep -e ' /ro ' -e ' /work ' /proc/mounts"))
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// holds checks a file of the host; an empty text says that there is none.
func holds(t *testing.T, path, text string) {
	t.Helper()
	if b, _ := os.ReadFile(path); string(b) != text {
		t.Errorf("on the host %s holds %q, not %q", path, b, text)
	}
}

// awaits waits in the guest until a condition of the shell holds.
func awaits(t *testing.T, sb *smolvm.Sandbox, condition string) {
	t.Helper()
	sh(t, sb, "for i in $(seq 100); do if "+condition+"; then exit 0; fi; sleep 0.1; done; exit 1")
}

func mountRead(t *testing.T, m *mounted) {
	for line, want := range map[string]string{
		"cat /ro/d/file /work/d/file":                           "hosthost",
		"stat -c '%U:%G %a %F' /ro/d/file":                      "root:root 644 regular file",
		"readlink /ro/d/up":                                     "../../secret",
		"cat /ro/d/up /work/out 2>&1 | grep -c secret\\$; true": "0",
		"ls /ro/..//secret 2>/dev/null; echo":                   "",
		"cd /work/d && pwd -P && ls ..":                         "/work/d\nd\nnpm\nout",
	} {
		if got := sh(t, m.Sandbox, line); got != want {
			t.Errorf("%s: %q, not %q", line, got, want)
		}
	}
	if info := must[smolvm.Info](t)(m.Info(t.Context())); len(info.Mounts) != 2 {
		t.Errorf("it is said to have %v", info.Mounts)
	}
}

func mountLayer(t *testing.T, m *mounted) {
	sh(t, m.Sandbox, "cd /ro && echo guest >> d/file && echo new > d/new && mv d/new moved && rm d/up && mv d e && chmod 600 e/file")
	if got := sh(t, m.Sandbox, "cd /ro && cat e/file moved; ls"); got != "hostguest\nnew\ne\nmoved\nnpm\nrepo" {
		t.Errorf("it sees %q", got)
	}
	holds(t, m.ro+"/d/file", "host")
	holds(t, m.ro+"/moved", "")
	if got := sh(t, m.Sandbox, "touch /ro/.lower 2>&1; mount -o remount,rw /ro; ls -A /run /mnt | grep -c lower; true"); got != "0" {
		t.Errorf("the folder below shows: %q", got)
	}
}

func mountWrite(t *testing.T, m *mounted) {
	sh(t, m.Sandbox, `cd /work && umask 022 && mkdir -p a/b && echo one > a/b/f && echo two >> a/b/f && mv a/b/f a/g && ln a/g a/h && ln -s g a/l &&
		chmod 4755 a/g && rm -r a/b && touch -d @1000 a/h && head -c 3000000 /dev/urandom > a/big && sync`)
	holds(t, m.work+"/a/h", "one\ntwo\n")
	st, err := os.Stat(m.work + "/a/g")
	if err != nil || st.Mode() != 0o755 || st.ModTime().Unix() != 1000 {
		t.Errorf("%v, %v", st, err)
	}
	sum := must[[]byte](t)(exec.Command("md5sum", m.work+"/a/big").Output())
	if got := sh(t, m.Sandbox, "md5sum < /work/a/big"); got[:32] != string(sum[:32]) {
		t.Error("three megabytes are others on the host")
	}
	for _, line := range []string{
		"mkfifo /work/pipe", "mknod /work/null c 1 3", "chown 1000 /work/a/g", "mount --bind /work/a /work/d && umount /work/d && mkfifo /work/d/pipe",
		"cat /work/../../etc/shadow-of-the-host",
	} {
		if res := must[*smolvm.Result](t)(m.Run(t.Context(), smolvm.ShellCommand(line))); res.OK() {
			t.Errorf("%s: no error", line)
		}
	}
	// Through memory, by a file that is open without a name, and by many at once.
	sh(t, m.Sandbox, `cd /work && python3 - <<'END'
import mmap, os
f = open("mapped", "w+b"); f.truncate(10000)
m = mmap.mmap(f.fileno(), 10000); m[9000:9005] = b"hello"; m.flush(); m.close(); f.close()
g = open("gone", "w+b"); os.unlink("gone"); g.write(b"x" * 5000); g.seek(0); assert len(g.read()) == 5000
os.fstat(g.fileno())
END
for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5; do echo $i$j > many-$i-$j; done) & done; wait`)
	if b := must[[]byte](t)(os.ReadFile(m.work + "/mapped")); len(b) != 10000 || string(b[9000:9005]) != "hello" {
		t.Errorf("%d bytes were written through memory", len(b))
	}
	if files, _ := filepath.Glob(m.work + "/many-*"); len(files) != 40 {
		t.Errorf("%d of 40 files were made", len(files))
	}
}

func mountHostChanges(t *testing.T, m *mounted) {
	for _, dir := range []struct{ host, guest string }{{m.ro, "/ro"}, {m.work, "/work"}} {
		put(t, dir.host+"/h/changes", "old")
		put(t, dir.host+"/h/goes", "old")
		awaits(t, m.Sandbox, "test -e "+dir.guest+"/h/goes")
		sh(t, m.Sandbox, "cat "+dir.guest+"/h/*; ! test -e "+dir.guest+"/h/comes")
		put(t, dir.host+"/h/changes", "longer")
		put(t, dir.host+"/h/comes", "new")
		os.Remove(dir.host + "/h/goes")
		awaits(t, m.Sandbox, fmt.Sprintf("test \"$(cat %[1]s/h/changes %[1]s/h/comes)\" = longernew && ! test -e %[1]s/h/goes", dir.guest))
	}
}

// mountInside starts processes that work in both folders, and checks that they still do
// in any continuation.
func mountInside(t *testing.T, m *mounted) (check func(*smolvm.Sandbox)) {
	t.Helper()
	put(t, m.ro+"/in/word", "first")
	put(t, m.work+"/in/word", "first")
	awaits(t, m.Sandbox, "test -e /ro/in/word && test -e /work/in/word")
	for _, dir := range []string{"/ro/in", "/work/in"} {
		out := "/dev/shm" + strings.ReplaceAll(dir, "/", "-")
		c := smolvm.ShellCommand(fmt.Sprintf("cd %s && exec 3<word && while sleep 0.3; do cat word > %s.new && pwd -P >> %[2]s.new && mv %[2]s.new %[2]s; done", dir, out))
		must[api.Process](t)(m.Background(t.Context(), c))
		awaits(t, m.Sandbox, "test -e "+out)
	}
	n := 0
	return func(sb *smolvm.Sandbox) {
		t.Helper()
		n++
		word := fmt.Sprint("word", n, "\n")
		put(t, m.ro+"/in/word", word)
		put(t, m.work+"/in/word", word)
		for _, dir := range []string{"/ro/in", "/work/in"} {
			awaits(t, sb, fmt.Sprintf("test \"$(cat /dev/shm%s)\" = \"$(printf 'word%d\\n%s')\"", strings.ReplaceAll(dir, "/", "-"), n, dir))
		}
	}
}

func mountHibernate(t *testing.T, m *mounted) {
	check := mountInside(t, m)
	check(m.Sandbox)
	if err := m.Stop(t.Context(), smolvm.StopOptions{Hibernate: true}); err != nil {
		t.Fatal(err)
	}
	put(t, m.ro+"/h/changes", "while it slept")
	put(t, m.work+"/h/changes", "while it slept")
	if got := sh(t, m.Sandbox, "cat /ro/h/changes /work/h/changes"); got != "while it sleptwhile it slept" {
		t.Errorf("it wakes and sees %q", got)
	}
	check(m.Sandbox)
}

func mountFork(t *testing.T, m *mounted) {
	check := mountInside(t, m)
	check(m.Sandbox)
	child := must[[]*smolvm.Sandbox](t)(m.Fork(t.Context(), smolvm.ForkOptions{}))[0]
	removeAfter(t, child)
	check(child)
	sh(t, child, "echo child > /ro/moved; echo child > /work/child")
	if got := sh(t, m.Sandbox, "cat /ro/moved; cat /work/child"); got != "new\nchild" {
		t.Errorf("the parent sees %q", got)
	}
	check(m.Sandbox)
}

func mountSnapshot(t *testing.T, m *mounted) {
	must[smolvm.Snapshot](t)(m.TakeSnapshot(t.Context(), smolvm.TakeSnapshot{Name: "with-folders"}))
	with := sandbox(t, m.c, smolvm.Spec{FromSnapshot: "with-folders", Mounts: m.mounts})
	if got := sh(t, with, "cat /ro/moved /work/child"); got != "new\nchild" {
		t.Errorf("with folders it sees %q", got)
	}
	if err := with.Stop(t.Context(), smolvm.StopOptions{}); err != nil {
		t.Error(err)
	}
	without := sandbox(t, m.c, smolvm.Spec{FromSnapshot: "with-folders"})
	if got := sh(t, without, "ls -A /ro /work; grep -c -e ' /ro ' -e ' /work ' /proc/mounts; true"); got != "/ro:\n\n/work:\n0" {
		t.Errorf("without folders it sees %q", got)
	}
}

func mountRewind(t *testing.T, m *mounted) {
	sh(t, m.Sandbox, "echo before > /ro/step")
	step := must[smolvm.Step](t)(m.Checkpoint(t.Context(), smolvm.Checkpoint{}))
	sh(t, m.Sandbox, "echo after > /ro/step; echo after > /work/step")
	if err := m.Rewind(t.Context(), step.Step); err != nil {
		t.Fatal(err)
	}
	// What it shares with the host is not rewound.
	if got := sh(t, m.Sandbox, "cat /ro/step /work/step"); got != "before\nafter" {
		t.Errorf("it sees %q", got)
	}
}

func mountStop(t *testing.T, m *mounted) {
	if err := m.Stop(t.Context(), smolvm.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, m.Sandbox, "cat /ro/moved /work/child; echo last > /work/last"); got != "new\nchild" {
		t.Errorf("it sees %q", got)
	}
	if err := m.Stop(t.Context(), smolvm.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(t, m.work+"/last", "last\n")
	os.Rename(m.ro, m.ro+"-away")
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), m.ro) {
		t.Errorf("started without its folder: %v", err)
	}
	os.Rename(m.ro+"-away", m.ro)
}

// repositoryFiles is how many files the repository of the measurement has.
const repositoryFiles = 5000

func makeRepository(t *testing.T, dir string) {
	t.Helper()
	for i := range repositoryFiles {
		put(t, fmt.Sprintf("%s/src/d%d/f%d.txt", dir, i/50, i%50), fmt.Sprintln("file", i))
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"}, {"gc", "-q"}} {
		if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

// makePackages makes a project whose packages are tarballs beside it.
func makePackages(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		var deps []string
		for i := range 5 {
			name := fmt.Sprint("p", i)
			makeTarball(t, fmt.Sprintf("%s/%s.tgz", dir, name), name)
			deps = append(deps, fmt.Sprintf("%q: \"file:%s.tgz\"", name, name))
		}
		put(t, dir+"/package.json", `{"name": "project", "version": "1.0.0", "dependencies": {`+strings.Join(deps, ", ")+"}}\n")
	}
}

func makeTarball(t *testing.T, path, name string) {
	t.Helper()
	put(t, path, "")
	f := must[*os.File](t)(os.Create(path))
	defer f.Close()
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	add := func(file, text string) {
		w.WriteHeader(&tar.Header{Name: "package/" + file, Mode: 0o644, Size: int64(len(text))})
		w.Write([]byte(text))
	}
	add("package.json", fmt.Sprintf(`{"name": %q, "version": "1.0.0"}`, name))
	for i := range 40 {
		add(fmt.Sprintf("lib/m%d/index.js", i), strings.Repeat("exports.x = 1;\n", 50))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

// mountTimes prints what work in the folders takes, and in a copy on the guest's own
// disk.
func mountTimes(t *testing.T, m *mounted) {
	sh(t, m.Sandbox, "git config --global --add safe.directory '*'")
	took := func(what, line string) time.Duration {
		t.Helper()
		start := time.Now()
		if got := sh(t, m.Sandbox, line); strings.Contains(got, "M ") {
			t.Errorf("%s: %.200q", what, got)
		}
		d := time.Since(start)
		t.Logf("%-40s %8.2f s", what, d.Seconds())
		return d
	}
	const status, install = "git status --short", "npm install --offline --no-audit --no-fund --ignore-scripts --cache /dev/shm/npm >/dev/null && test -e node_modules/p4/lib/m39/index.js"
	took("git status, folder, first", "cd /ro/repo && "+status)
	again := took("git status, folder, again", "cd /ro/repo && "+status)
	took("copy of the repository", "cp -a /ro/repo /root/repo")
	took("git status, own disk, first", "cd /root/repo && "+status)
	own := took("git status, own disk, again", "cd /root/repo && "+status)
	if again > 10*own+5*time.Second {
		t.Errorf("git status takes %v in a folder and %v on the own disk", again, own)
	}
	took("npm, once for all", "npm --version >/dev/null")
	took("npm install, folder with a layer", "cd /ro/npm && "+install)
	took("npm install, folder that is changed", "cd /work/npm && "+install)
	took("npm install, own disk", "mkdir /root/npm && cp /ro/npm/*.* /root/npm && cd /root/npm && "+install)
}
