package forkcheck

import (
	"maps"
	"strings"
	"testing"
	"time"
)

// sane returns what a source says before its fork, and all say after it.
func sane() (facts, []facts) {
	before := facts{name: "source", said: map[string]string{
		"random": "r", "uuid": "u", "machine-id": "m0", "boot-id": "b0", "hostname": "h0", "ssh-key": "k0", "count": "5", "later": "6",
	}}
	var after []facts
	for _, n := range []string{"0", "1", "2"} {
		after = append(after, facts{name: "s" + n, behind: -3 * time.Millisecond, said: map[string]string{
			"random": "r" + n, "uuid": "u" + n, "machine-id": "m" + n, "boot-id": "b" + n, "hostname": "h" + n, "ssh-key": "k" + n,
			"count": "8", "later": "9",
		}})
	}
	return before, after
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(before *facts, after []facts)
		bad  string // the property that is not as it must be; empty: all are
	}{
		{"sane", func(*facts, []facts) {}, ""},
		{"children share random bytes", func(_ *facts, a []facts) { a[2].said["random"] = "r1" }, "random bytes"},
		{"a child has the source's uuid", func(_ *facts, a []facts) { a[1].said["uuid"] = "u0" }, "random uuid"},
		{"a child has the source's machine id", func(_ *facts, a []facts) { a[1].said["machine-id"] = "m0" }, "machine id"},
		{"no machine id anywhere", func(b *facts, a []facts) {
			for _, f := range append(a, *b) {
				delete(f.said, "machine-id")
			}
		}, ""},
		{"one lost its machine id", func(_ *facts, a []facts) { a[1].said["machine-id"] = "" }, "machine id"},
		{"boot ids", func(_ *facts, a []facts) { a[1].said["boot-id"] = "b2" }, "boot id"},
		{"no boot id anywhere", func(b *facts, a []facts) {
			for _, f := range append(a, *b) {
				delete(f.said, "boot-id")
			}
		}, "boot id"},
		{"host names", func(_ *facts, a []facts) { a[1].said["hostname"] = "h2" }, "host name"},
		{"keys", func(_ *facts, a []facts) { a[2].said["ssh-key"] = "k0" }, "ssh host keys"},
		{"children lost keys", func(_ *facts, a []facts) { a[1].said["ssh-key"], a[2].said["ssh-key"] = "", "" }, ""},
		{"the source lost its keys", func(b *facts, a []facts) { b.said["ssh-key"], a[0].said["ssh-key"] = "", "" }, "ssh host keys"},
		{"a clock behind", func(_ *facts, a []facts) { a[1].behind = 2 * time.Second }, "clocks"},
		{"a clock ahead", func(_ *facts, a []facts) { a[2].behind = -2 * time.Second }, "clocks"},
		{"a child began anew", func(_ *facts, a []facts) { a[1].said["count"], a[1].said["later"] = "1", "2" }, "processes go on"},
		{"a child stands still", func(_ *facts, a []facts) { a[1].said["later"] = "8" }, "processes go on"},
		{"a child does not count", func(_ *facts, a []facts) { a[1].said["count"] = "" }, "processes go on"},
		{"the source was renamed", func(b *facts, _ []facts) { b.said["hostname"] = "other" }, "source left alone"},
		{"the source stands still", func(_ *facts, a []facts) { a[0].said["later"] = "8" }, "source left alone"},
		{"the source began anew", func(_ *facts, a []facts) { a[0].said["count"], a[0].said["later"] = "1", "2" }, "source left alone"},
	} {
		before, after := sane()
		tt.do(&before, after)
		r := judge(before, after)
		var bad []string
		for _, p := range r.Properties {
			if !p.OK {
				bad = append(bad, p.Name)
			}
			if n := len(p.Values); n != 0 && n != len(r.Sandboxes) {
				t.Errorf("%s: %d values of %s for %d sandboxes", tt.name, n, p.Name, len(r.Sandboxes))
			}
			if p.Detail == "" {
				t.Errorf("%s: nothing is said about %s", tt.name, p.Name)
			}
		}
		if got := strings.Join(bad, ", "); got != tt.bad || r.OK != (tt.bad == "") {
			t.Errorf("%s: OK %v, not as it must be: %q, want %q", tt.name, r.OK, got, tt.bad)
		}
	}
}

// TestEveryFactIsJudged keeps the script and what is made of it together.
func TestEveryFactIsJudged(t *testing.T) {
	_, after := sane()
	for key := range maps.Keys(after[0].said) {
		if !strings.Contains(askScript, "echo "+key+"=") {
			t.Errorf("the script says no %s", key)
		}
	}
	if n := strings.Count(askScript, "\necho "); n != len(after[0].said) {
		t.Errorf("the script says %d facts, %d are judged", n, len(after[0].said))
	}
}
