package guest_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

func TestComparePaths(t *testing.T) {
	order := []string{"/", "/a", "/a/b", "/a/b/c", "/a/ba", "/a b", "/a-b", "/a-b/c", "/ab", "/b", "/é"}
	shuffled := slices.Clone(order)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, guest.ComparePaths)
	if !slices.Equal(shuffled, order) {
		t.Errorf("%q", shuffled)
	}
	if guest.ComparePaths("/a", "/a") != 0 {
		t.Error("a path differs from itself")
	}
}

// liar is a guest that answers every operation with the same entries.
type liar []string

func (l liar) Open(ctx context.Context, op guest.Op, req wire.Message) (guest.Stream, error) {
	near, far := net.Pipe()
	go func() {
		st := guest.NewConn(far)
		var part guest.TreePart
		for _, p := range l {
			part.Entries = append(part.Entries, guest.TreeEntry{Path: p})
		}
		st.Send(guest.KindReply, wire.Marshal(&part))
		st.CloseSend()
	}()
	return guest.NewConn(near), nil
}

func TestTreeOfLiar(t *testing.T) {
	for _, test := range []struct {
		paths []string
		says  string
	}{
		{[]string{"/a", "/a/b"}, ""},
		{[]string{"/a/b", "/a"}, "after"},
		{[]string{"/a", "/a"}, "after"},
		{[]string{"a"}, "path"},
		{[]string{"/a/../../etc"}, "path"},
		{[]string{"/a//b"}, "path"},
		{[]string{"/a/"}, "path"},
		{[]string{"/a\x00b"}, "path"},
		{[]string{""}, "path"},
	} {
		n := 0
		var last error
		for _, err := range (guest.Client{Opener: liar(test.paths)}).Tree(testContext(t), guest.Tree{}) {
			n++
			last = err
		}
		switch {
		case test.says == "" && (last != nil || n != len(test.paths)):
			t.Errorf("%q: %d, %v", test.paths, n, last)
		case test.says != "" && (api.ClassOf(last) != api.Internal || !strings.Contains(last.Error(), test.says)):
			t.Errorf("%q: %v", test.paths, last)
		}
	}
}
