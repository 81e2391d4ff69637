package hostfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest"
)

// expect waits until all of some notices have come, in any order.
func (k *kernel) expect(want ...string) {
	k.t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	timeout := time.After(10 * time.Second)
	for len(left) > 0 {
		select {
		case m := <-k.notices:
			delete(left, noticeText(m))
		case m := <-k.events:
			delete(left, fmt.Sprintf("event %d", m[0]))
		case <-timeout:
			k.t.Fatalf("not told: %v", left)
		}
	}
}

func noticeText(m []byte) string {
	id := binary.LittleEndian.Uint64(m[outHeaderLen:])
	if binary.LittleEndian.Uint32(m[4:]) == notifyInvalInode {
		return fmt.Sprintf("inode %d", id)
	}
	n := binary.LittleEndian.Uint32(m[outHeaderLen+8:])
	return fmt.Sprintf("entry %d %s", id, m[outHeaderLen+16:][:n])
}

// lives are how long an entry and its attributes stay true, in seconds.
func (a answer) lives() (entry, attrs uint64) {
	return binary.LittleEndian.Uint64(a.body[16:]), binary.LittleEndian.Uint64(a.body[24:])
}

// TestTold has the host change what the guest knows.
func TestTold(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/d/file", "old")
	write(t, dir+"/d/gone", "old")
	write(t, dir+"/d/moved", "old")
	_, k := share(t, Config{Folder: dir})
	d, f := k.walk("d").node(), k.walk("d", "file")
	if entry, attrs := f.lives(); entry != 3600 || attrs != 3600 {
		t.Errorf("a watched file is true for %d and %d s", entry, attrs)
	}
	k.walk("d", "gone")
	k.walk("d", "moved")
	k.walk("d", "new")

	write(t, dir+"/d/file", "longer")
	k.expect(fmt.Sprintf("inode %d", f.node()))
	os.Remove(dir + "/d/gone")
	k.expect(fmt.Sprintf("entry %d gone", d), fmt.Sprintf("inode %d", d))
	os.Rename(dir+"/d/moved", dir+"/d/new")
	k.expect(fmt.Sprintf("entry %d moved", d), fmt.Sprintf("entry %d new", d), fmt.Sprintf("event %d", guest.FolderFresh))
	if text, err := k.readAll(f.node()); text != "longer" || err != 0 {
		t.Errorf("%q, %v", text, err)
	}
	os.Chmod(dir+"/d/file", 0o600)
	k.expect(fmt.Sprintf("inode %d", f.node()))
}

// TestManyNames has a file changed by a name that the guest does not know.
func TestManyNames(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/one", "x")
	write(t, dir+"/b/other", "x")
	if err := os.Link(dir+"/a/one", dir+"/b/two"); err != nil {
		t.Fatal(err)
	}
	_, k := share(t, Config{Folder: dir})
	f := k.walk("a", "one")
	if entry, attrs := f.lives(); entry != 1 || attrs != 1 {
		t.Errorf("a file with two names is true for %d and %d s", entry, attrs)
	}
	k.walk("b", "other")
	write(t, dir+"/b/two", "xyz")
	k.expect(fmt.Sprintf("inode %d", f.node()))
	if g := k.walk("b", "two"); g.node() != f.node() {
		t.Errorf("one file has the numbers %d and %d", f.node(), g.node())
	}
}

// TestOwnChanges has the guest change much itself: it is told next to nothing, only
// what the host noticed before the guest had its answer.
func TestOwnChanges(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/last", "x")
	_, k := share(t, Config{Folder: dir, Writable: true})
	last := k.walk("last")
	for i := range 20 {
		name := fmt.Sprint("f", i)
		a := k.ask(opCreate, rootID, unix.O_CREAT|unix.O_RDWR, unix.S_IFREG|0o644, 0, 0, name)
		h := a.body[entryLen : entryLen+8]
		k.ask(opWrite, a.node(), h, uint64(0), 3, 0, uint64(0), 0, 0, []byte("abc"))
		k.ask(opRelease, a.node(), h, 0, 0, uint64(0))
		if i%2 == 0 {
			k.ask(opUnlink, rootID, name)
		}
	}
	write(t, dir+"/last", "longer")
	want, needless := fmt.Sprintf("inode %d", last.node()), 0
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m := <-k.notices:
			if noticeText(m) == want {
				// Which change is whose is told by when it came, so on a busy host some are
				// taken for the host's: that costs a question, no more. All would be 50.
				if needless > 25 {
					t.Errorf("told of %d changes of its own", needless)
				}
				return
			}
			needless++
		case <-timeout:
			t.Fatal("not told of the host's change")
		}
	}
}

// TestAhead has files asked for one by one.
func TestAhead(t *testing.T) {
	dir := t.TempDir()
	for i := range aheadAfter {
		write(t, fmt.Sprintf("%s/d/%d", dir, i), "")
	}
	_, k := share(t, Config{Folder: dir})
	for i := range aheadAfter {
		k.walk("d", fmt.Sprint(i))
	}
	k.expect(fmt.Sprintf("event %d", guest.FolderAhead))
}

// TestOverflow has more change than the guest can be told one by one.
func TestOverflow(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	s, k := share(t, Config{Folder: dir})
	f := k.walk("file")
	s.watch.tell(&news{all: true})
	k.expect(fmt.Sprintf("inode %d", f.node()), fmt.Sprintf("entry %d file", rootID), fmt.Sprintf("event %d", guest.FolderShrink))
}
