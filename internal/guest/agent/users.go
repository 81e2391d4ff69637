package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
)

// user is who a process runs as.
type user struct {
	name        string
	uid, gid    uint32
	groups      []uint32 // supplementary
	home, shell string
}

// users reads the guest's /etc/passwd and /etc/group, again when they changed.
type users struct {
	root   string
	mu     sync.Mutex
	passwd cachedFile
	group  cachedFile
}

// cachedFile is the fields of the lines of a file as of its size and time.
type cachedFile struct {
	size  int64
	mtime time.Time
	rows  [][]string
}

// maxUserFile bounds /etc/passwd and /etc/group, in bytes.
const maxUserFile = 4 << 20

// load returns the rows that have at least fields fields. A missing file is empty.
func (c *cachedFile) load(path string, fields int) ([][]string, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		*c = cachedFile{}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if st.Size() == c.size && st.ModTime().Equal(c.mtime) {
		return c.rows, nil
	}
	if st.Size() > maxUserFile {
		return nil, api.Errorf(api.Exhausted, "read %s: it has %d bytes, %d are the most", path, st.Size(), maxUserFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	*c = cachedFile{size: st.Size(), mtime: st.ModTime(), rows: parseRows(string(b), fields)}
	return c.rows, nil
}

// parseRows splits the lines of a user file into fields. Comments and lines with
// too few fields are left out.
func parseRows(text string, fields int) [][]string {
	var rows [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if f := strings.Split(line, ":"); len(f) >= fields {
			rows = append(rows, f)
		}
	}
	return rows
}

const (
	passwdFields = 7 // name:x:uid:gid:gecos:home:shell
	groupFields  = 4 // name:x:gid:members
)

func (u *users) load() (passwd, group [][]string, err error) {
	passwd, err = u.passwd.load(filepath.Join(u.root, "etc/passwd"), passwdFields)
	if err == nil {
		group, err = u.group.load(filepath.Join(u.root, "etc/group"), groupFields)
	}
	return passwd, group, err
}

// lookup finds "name", "uid" or either with ":group". Empty is root. A uid need
// not be listed, a name must.
func (u *users) lookup(spec string) (user, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	passwd, group, err := u.load()
	if err != nil {
		return user{}, err
	}
	name, groupName, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = strconv.Itoa(os.Geteuid()) // root, but in tests
	}
	r, ok := findUser(passwd, name)
	if !ok {
		return user{}, api.Errorf(api.Invalid, "user %q is not in the guest's /etc/passwd", name)
	}
	r.groups = groupsOf(group, r)
	if hasGroup {
		gid, ok := findGroup(group, groupName)
		if !ok {
			return user{}, api.Errorf(api.Invalid, "group %q is not in the guest's /etc/group", groupName)
		}
		r.gid = gid
	}
	return r, nil
}

func findUser(passwd [][]string, name string) (user, bool) {
	i := slices.IndexFunc(passwd, func(f []string) bool { return f[0] == name })
	id, err := strconv.ParseUint(name, 10, 32)
	if i < 0 && err == nil {
		i = slices.IndexFunc(passwd, func(f []string) bool { return f[2] == name })
	}
	if i >= 0 {
		f := passwd[i]
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return user{}, false
		}
		return user{name: f[0], uid: uint32(uid), gid: uint32(gid), home: f[5], shell: f[6]}, true
	}
	if err != nil {
		return user{}, false
	}
	r := user{name: name, uid: uint32(id), gid: uint32(id)}
	if id == 0 {
		r.name, r.home = "root", "/root"
	}
	return r, true
}

func findGroup(group [][]string, name string) (uint32, bool) {
	for _, f := range group {
		if f[0] == name {
			gid, err := strconv.ParseUint(f[2], 10, 32)
			return uint32(gid), err == nil
		}
	}
	gid, err := strconv.ParseUint(name, 10, 32)
	return uint32(gid), err == nil
}

// groupsOf returns the groups that list the user.
func groupsOf(group [][]string, u user) []uint32 {
	var ids []uint32
	for _, f := range group {
		if !slices.Contains(strings.Split(f[3], ","), u.name) {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(gid) != u.gid {
			ids = append(ids, uint32(gid))
		}
	}
	return ids
}

// names returns the names of a uid and a gid; a number where there is none.
func (u *users) names(uid, gid int) (string, string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	passwd, group, err := u.load()
	us, gs := strconv.Itoa(uid), strconv.Itoa(gid)
	if err != nil {
		return us, gs
	}
	for _, f := range passwd {
		if f[2] == us {
			us = f[0]
			break
		}
	}
	for _, f := range group {
		if f[2] == gs {
			gs = f[0]
			break
		}
	}
	return us, gs
}
