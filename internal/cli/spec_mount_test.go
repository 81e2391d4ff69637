package cli

import (
	"os"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestParseMount(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Chdir(home)
	if err := os.Mkdir("dir", 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile("file", nil, 0o644)
	dir := home + "/dir"
	for word, want := range map[string]api.Mount{
		"dir":              {Host: dir},
		"dir:rw":           {Host: dir, Writable: true},
		"dir:/work":        {Host: dir, Guest: "/work"},
		"./dir:/work/:ro":  {Host: dir, Guest: "/work"},
		"~/dir:/work:rw":   {Host: dir, Guest: "/work", Writable: true},
		dir + ":/work:rw":  {Host: dir, Guest: "/work", Writable: true},
		"~:/home/me/there": {Host: home, Guest: "/home/me/there"},
	} {
		if got, err := parseMount(word); err != nil || got != want {
			t.Errorf("%s: %+v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", ":/work", "dir:/work:rx", "dir:rw:ro", "missing:/work", "file:/work"} {
		if got, err := parseMount(word); err == nil {
			t.Errorf("%s: %+v", word, got)
		}
	}
}
