package wire

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"
)

type inner struct {
	Name string
	N    int64
}

func (m *inner) Wire(c *Coder) {
	c.String(&m.Name)
	c.Int64(&m.N)
}

type outer struct {
	Flag  bool
	Bytes []byte
	Texts []string
	List  []inner
	Sub   inner
	Last  int
}

func (m *outer) Wire(c *Coder) {
	c.Bool(&m.Flag)
	c.Bytes(&m.Bytes)
	c.Strings(&m.Texts)
	List(c, &m.List)
	c.Sub(&m.Sub)
	c.Int(&m.Last)
}

func full() *outer {
	return &outer{true, []byte{0, 1}, []string{"", "a"}, []inner{{"x", -1}, {"", math.MaxInt64}}, inner{"s", 7}, -5}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []*outer{full(), {}} {
		var got outer
		if err := Unmarshal(Marshal(want), &got); err != nil || !reflect.DeepEqual(&got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// newer is a later version of outer, whose elements have grown too.
type newer struct {
	outer
	List []newerInner
	Sub  newerInner
	More string
}

type newerInner struct {
	inner
	More string
}

func (m *newerInner) Wire(c *Coder) {
	m.inner.Wire(c)
	c.String(&m.More)
}

func (m *newer) Wire(c *Coder) {
	c.Bool(&m.Flag)
	c.Bytes(&m.Bytes)
	c.Strings(&m.Texts)
	List(c, &m.List)
	c.Sub(&m.Sub)
	c.Int(&m.Last)
	c.String(&m.More)
}

func TestVersions(t *testing.T) {
	n := newer{List: []newerInner{{inner{"a", 1}, "new"}, {inner{"b", 2}, "new"}}, Sub: newerInner{inner{"s", 3}, "new"}, More: "new"}
	n.Last = 9
	var old outer
	if err := Unmarshal(Marshal(&n), &old); err != nil || len(old.List) != 2 || old.List[1] != (inner{"b", 2}) || old.Sub.N != 3 || old.Last != 9 {
		t.Errorf("an old reader of a new message: %+v, %v", old, err)
	}
	var got newer
	if err := Unmarshal(Marshal(full()), &got); err != nil || got.List[0].Name != "x" || got.More != "" || got.Last != -5 {
		t.Errorf("a new reader of an old message: %+v, %v", got, err)
	}
}

func TestMalformed(t *testing.T) {
	b := Marshal(full())
	for i := range b {
		var m outer
		Unmarshal(b[:i], &m) // may be taken for an older message, must not panic
	}
	for name, b := range map[string][]byte{
		"endless integer": bytes.Repeat([]byte{0xff}, 20),
		"long text":       {0, 0xff, 0xff, 0x03, 'x'},
		"negative count":  {0, 0, 1},
		"huge count":      {0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1},
	} {
		var m outer
		if err := Unmarshal(b, &m); err != ErrMalformed {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestBytesAreCopied(t *testing.T) {
	b := Marshal(full())
	var m outer
	Unmarshal(b, &m)
	clear(b)
	if m.Bytes[1] != 1 || m.Texts[1] != "a" {
		t.Error("the message shares the buffer")
	}
}

func TestRaw(t *testing.T) {
	b := Marshal(full())
	if got := Marshal(Raw(b)); !bytes.Equal(got, b) {
		t.Errorf("%x", got)
	}
	if err := Unmarshal(b, Raw(nil)); err != ErrMalformed {
		t.Errorf("%v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(Marshal(full()))
	f.Add([]byte(strings.Repeat("\xff", 30)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again outer
		if Unmarshal(b, &m) != nil {
			return
		}
		if err := Unmarshal(Marshal(&m), &again); err != nil || !reflect.DeepEqual(normal(m), normal(again)) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

// normal drops the difference between no list and an empty one.
func normal(m outer) outer {
	if len(m.Bytes) == 0 {
		m.Bytes = nil
	}
	if len(m.Texts) == 0 {
		m.Texts = nil
	}
	if len(m.List) == 0 {
		m.List = nil
	}
	return m
}
