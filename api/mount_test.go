package api

import "testing"

func TestCheckMounts(t *testing.T) {
	for _, tt := range []struct {
		mounts []Mount
		ok     bool
	}{
		{nil, true},
		{[]Mount{{Host: "/home/me"}}, true},
		{[]Mount{{Host: "/home/me", Guest: "/work", Writable: true}, {Host: "/home/me", Guest: "/work2"}}, true},
		{[]Mount{{Host: "me"}}, false},
		{[]Mount{{Host: "/home/../etc"}}, false},
		{[]Mount{{Host: "/a", Guest: "work"}}, false},
		{[]Mount{{Host: "/a", Guest: "/work/"}}, false},
		{[]Mount{{Host: "/a", Guest: "/"}}, false},
		{[]Mount{{Host: "/a", Guest: "/proc/1"}}, false},
		{[]Mount{{Host: "/a", Guest: "/etc"}}, false},
		{[]Mount{{Host: "/a", Guest: "/x,y"}}, false},
		{[]Mount{{Host: "/a", Guest: "/work"}, {Host: "/b", Guest: "/work"}}, false},
		{[]Mount{{Host: "/a", Guest: "/work"}, {Host: "/b", Guest: "/work/sub"}}, false},
		{make([]Mount, MaxMounts+1), false},
	} {
		if err := (Spec{Mounts: tt.mounts}).checkMounts(); (err == nil) != tt.ok {
			t.Errorf("%v: %v", tt.mounts, err)
		}
	}
}
