package guesttest_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest"
)

// tree reads the changed files below a path, each as "path type base".
func (v *vm) tree(t *testing.T, path string) []string {
	t.Helper()
	var l []string
	for e, err := range v.c.Tree(ctxOf(t), guest.Tree{Path: path}) {
		if err != nil {
			t.Fatal(err)
		}
		l = append(l, e.Path+" "+e.File.Type+" "+e.Base.Type)
	}
	return l
}

func (v *vm) testTree(t *testing.T) {
	base := strings.Split(v.sh(t, "cd /usr/share/perl5 && find . | LC_ALL=C sort | head -200; ls /usr/share/common-licenses/GPL-3"), "\n")
	v.sh(t, `mkdir -p /t/a /t/a-b /t/"a b" && echo 1 > /t/a/f && echo 1 > /t/a-b/f && ln -s x /t/l && mkfifo /t/p
		chmod 700 /usr/share/common-licenses/GPL-3; rm /usr/share/common-licenses/GPL-2
		rm -r /usr/share/perl5 && rm -r /usr/share/terminfo 2>/dev/null; rm -r /etc/skel && mkdir /etc/skel && echo x > /etc/skel/new
		rm -r /etc/cron.daily && echo file > /etc/cron.daily; mkdir -p /t/gone && rmdir /t/gone`)
	if got, want := v.tree(t, "/t"), []string{
		"/t dir ", "/t/a dir ", "/t/a/f file ", "/t/a b dir ", "/t/a-b dir ", "/t/a-b/f file ", "/t/l symlink ", "/t/p other ",
	}; !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	if got := v.tree(t, "/usr/share/common-licenses"); !slices.Equal(got, []string{
		"/usr/share/common-licenses dir dir", "/usr/share/common-licenses/GPL-2  file", "/usr/share/common-licenses/GPL-3 file file",
	}) {
		t.Errorf("%q", got)
	}
	gone := v.tree(t, "/usr/share/perl5")
	if len(gone) < min(len(base)-1, 200) || gone[0] != "/usr/share/perl5  dir" || slices.ContainsFunc(gone, func(e string) bool { return !strings.Contains(e, "  ") }) {
		t.Errorf("removed: %d, %q", len(gone), gone[:min(3, len(gone))])
	}
	if got := v.tree(t, "/usr/share/perl5/Debconf"); len(got) > 0 && got[0] != "/usr/share/perl5/Debconf  dir" {
		t.Errorf("%q", got[0])
	}
	skel := v.tree(t, "/etc/skel")
	if !slices.Contains(skel, "/etc/skel/new file ") || !slices.Contains(skel, "/etc/skel/.profile  file") || skel[0] != "/etc/skel dir dir" {
		t.Errorf("%q", skel)
	}
	daily := v.tree(t, "/etc/cron.daily")
	if len(daily) < 2 || daily[0] != "/etc/cron.daily file dir" || !strings.HasSuffix(daily[1], "  file") {
		t.Errorf("%q", daily)
	}
	if got := v.tree(t, "/var/lib/nothing"); len(got) > 0 {
		t.Errorf("%q", got)
	}
	began := time.Now()
	all := v.tree(t, "")
	t.Logf("%d entries in %v", len(all), time.Since(began).Round(time.Millisecond))
	if !slices.Contains(all, "/t/a/f file ") || !slices.Contains(all, gone[0]) {
		t.Error("the whole tree lacks a part")
	}
	v.testBaseRead(t)
}

// testBaseRead reads what the base image has at a path that the guest changed.
func (v *vm) testBaseRead(t *testing.T) {
	before := v.sh(t, "cat /etc/debian_version")
	v.sh(t, "echo new > /etc/debian_version")
	_, r, err := v.c.ReadFile(ctxOf(t), guest.Read{Path: "/etc/debian_version", Base: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || strings.TrimSpace(string(b)) != before {
		t.Errorf("%q, %v", b, err)
	}
	for e, err := range v.c.Tree(ctxOf(t), guest.Tree{Path: "/etc/debian_version"}) {
		if err != nil || e.File.Size != 4 || e.Base.Size != int64(len(before))+1 || e.File.Ino == 0 || e.Base.Ino != 0 {
			t.Errorf("%+v, %v", e, err)
		}
	}
}
