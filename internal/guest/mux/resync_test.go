package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// pluggedPort is a port like the guest's: hosts come and go, which its reader
// sees as ErrHostGone, or, after a restore, not at all.
type pluggedPort struct {
	hosts chan net.Conn
	host  atomic.Pointer[net.Conn]
	tell  bool
}

func (p *pluggedPort) Read(b []byte) (int, error) {
	for {
		host := p.host.Load()
		if host == nil {
			h, ok := <-p.hosts
			if !ok {
				return 0, io.EOF
			}
			host = &h
			p.host.Store(host)
		}
		n, err := (*host).Read(b)
		if n > 0 || err == nil {
			return n, nil
		}
		p.host.Store(nil)
		if p.tell {
			return 0, ErrHostGone
		}
	}
}

func (p *pluggedPort) Write(b []byte) (int, error) {
	if h := p.host.Load(); h != nil {
		(*h).Write(b) // what nobody takes is lost
	}
	return len(b), nil
}

// TestResync cuts a host off after every number of bytes of its session and has
// another one come.
func TestResync(t *testing.T) {
	for _, tell := range []bool{true, false} {
		name := map[bool]string{true: "told", false: "untold"}[tell]
		t.Run(name, func(t *testing.T) { testResync(t, tell) })
	}
}

func testResync(t *testing.T, tell bool) {
	checkLeaks(t)
	p := &pluggedPort{hosts: make(chan net.Conn), tell: tell}
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), p, 1, echo) }()
	defer func() {
		close(p.hosts)
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	// A session's bytes: greeting, a message, the longest message, an end.
	whole := appendGreeting(nil, kindHello, 1, newNonce())
	whole = appendFrame(whole, kindOpen, 1, []byte("hello"))
	whole = appendFrame(whole, kindData, 1, bytes.Repeat([]byte{magic}, 20))
	whole = appendFrame(whole, kindEnd, 1, nil)
	big := appendFrame(nil, kindOpen, 2, bytes.Repeat([]byte{tail}, MaxPayload))
	cuts := len(whole)
	whole = append(whole, big...)
	for cut := range cuts {
		tryCut(t, p, whole[:cut])
	}
	for range 20 { // and some within the longest frame
		tryCut(t, p, whole[:cuts+rand.IntN(len(big))])
	}
}

func tryCut(t *testing.T, p *pluggedPort, sent []byte) {
	t.Helper()
	old, port := net.Pipe()
	p.hosts <- port
	go io.Copy(io.Discard, old)
	if _, err := old.Write(sent); err != nil && len(sent) > 0 {
		t.Fatal(err)
	}
	old.Close()
	host, port := net.Pipe()
	p.hosts <- port
	s, err := Connect(testContext(t), host, 1)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(sent), err)
	}
	defer s.Close()
	if err := ask(testContext(t), s, 1, 10); err != nil {
		t.Fatalf("after %d bytes: %v", len(sent), err)
	}
}

// TestStaleBytes has a guest that is in the middle of an old frame when the host
// comes: everything before the answer is dropped, also what looks like one.
func TestStaleBytes(t *testing.T) {
	stale := appendFrame(nil, kindData, 7, bytes.Repeat([]byte("old"), 5000))
	stale = append(stale, appendGreeting(nil, kindAck, 1, newNonce())...)
	stale = append(stale, greetingStart(kindAck)...)
	for _, cut := range []int{0, 1, 5, 8, 100, len(stale) - 3} {
		host, port := socketPair(t)
		go func() {
			port.Write(stale[cut:])
			answerHello(port)
			// Nothing of the old streams may reach the new ones.
			io.Copy(io.Discard, port)
		}()
		s, err := Connect(testContext(t), host, 1)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		s.Close()
	}
}

// TestRepeatedHello answers late, twice: the second answer must not disturb.
func TestRepeatedHello(t *testing.T) {
	host, port := socketPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		nonce := answerHello(port)
		port.Write(appendGreeting(nil, kindAck, 1, nonce))
		io.ReadFull(port, make([]byte, overhead)) // the open
		b := appendFrame(nil, kindData, 1, []byte("x"))
		port.Write(b)
	}()
	s, err := Connect(testContext(t), host, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Open(testContext(t), kindOpen, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	if _, p, err := st.Recv(); err != nil || string(p) != "x" {
		t.Errorf("%q, %v", p, err)
	}
}

// TestLateGreeting has the same host greet again while its session runs.
func TestLateGreeting(t *testing.T) {
	host, port := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), port, 1, echo) }()
	nonce := newNonce()
	hello := appendGreeting(nil, kindHello, 1, nonce)
	b := append(bytes.Clone(hello), make([]byte, MaxFrame)...)
	b = append(b, hello...)
	b = appendFrame(b, kindOpen, 1, []byte("hi"))
	go host.Write(b)
	p := newParser()
	var kinds []uint8
	for len(kinds) < 3 {
		if err := p.fill(host); err != nil {
			t.Fatal(err)
		}
		for {
			f, ok, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			kinds = append(kinds, f.kind)
		}
	}
	if !bytes.Equal(kinds, []byte{kindAck, kindAck, kindOpen}) {
		t.Errorf("kinds %v", kinds)
	}
	host.Close()
	<-served
}

// TestHostileGuest sends what no guest of ours does. The session must end with
// an error, whatever comes, and leave nothing behind.
func TestHostileGuest(t *testing.T) {
	credit := func(n uint32) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }
	flood := []byte{}
	for range Window/MaxPayload + 1 {
		flood = appendFrame(flood, kindData, 1, make([]byte, MaxPayload))
	}
	empty := []byte{}
	for range Window/overhead + 1 {
		empty = appendFrame(empty, kindData, 1, nil)
	}
	end := appendFrame(nil, kindEnd, 1, nil)
	for name, bytes := range map[string][]byte{
		"noise":                 []byte("GET / HTTP/1.1\r\n\r\n"),
		"zeros":                 make([]byte, 100),
		"stream never opened":   appendFrame(nil, kindData, 99, nil),
		"stream 0":              appendFrame(nil, kindData, 0, nil),
		"length beyond the max": {magic, kindData, 0xff, 0xff, 0, 0, 0, 1},
		"wrong last byte":       append(appendFrame(nil, kindData, 1, nil)[:headerLen], 0),
		"credit beyond window":  appendFrame(nil, kindCredit, 1, credit(1<<31)),
		"credit of wrong size":  appendFrame(nil, kindCredit, 1, []byte{1}),
		"more than the window":  flood,
		"many empty messages":   empty,
		"unknown kind":          appendFrame(nil, 9, 1, nil),
		"hello":                 appendGreeting(nil, kindHello, 1, newNonce()),
		"answer to another":     appendGreeting(nil, kindAck, 1, newNonce()),
		"second end":            append(end, end...),
		"data after the end":    appendFrame(end, kindData, 1, nil),
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			host, port := socketPair(t)
			go func() {
				answerHello(port)
				io.ReadFull(port, make([]byte, overhead)) // the open
				port.Write(bytes)
			}()
			s, err := Connect(testContext(t), host, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			// It may end as soon as this: the guest can take a repeated greeting for it.
			if _, err := s.Open(testContext(t), kindOpen, nil); err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			select {
			case <-s.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the session goes on")
			}
			if err := s.Err(); !errors.Is(err, ErrProtocol) {
				t.Errorf("%v", err)
			}
		})
	}
}

// FuzzParser feeds bytes in pieces: the parser must give the same frames however
// they are cut, and never more than it was given.
func FuzzParser(f *testing.F) {
	f.Add(appendFrame(nil, kindData, 1, []byte("abc")), uint8(3))
	f.Add(appendGreeting(make([]byte, 20), kindHello, 1, newNonce()), uint8(1))
	f.Add([]byte{magic, magic, magic}, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		got := parseAll(data, int(step)+1)
		want := parseAll(data, len(data)+1)
		if !bytes.Equal(got, want) {
			t.Errorf("%x in one piece, %x in pieces of %d", want, got, int(step)+1)
		}
	})
}

// parseAll parses as the guest does and packs the frames again.
func parseAll(data []byte, step int) []byte {
	p := newParser()
	r := bytes.NewReader(data)
	var out []byte
	lost := false
	for {
		if err := p.fill(io.LimitReader(r, int64(step))); err != nil {
			return out
		}
		for {
			if lost && !p.seek(greetingStart(kindHello)) {
				break
			}
			f, ok, err := p.next()
			if err != nil {
				p.skip()
				lost = true
				continue
			}
			if !ok {
				break
			}
			lost = false
			out = appendFrame(out, f.kind, f.stream, f.payload)
		}
	}
}

// FuzzGuest feeds a guest: it must neither panic nor hang.
func FuzzGuest(f *testing.F) {
	b := appendGreeting(nil, kindHello, 1, newNonce())
	b = appendFrame(b, kindOpen, 1, []byte("x"))
	f.Add(appendFrame(b, kindReset, 1, nil))
	f.Add(appendFrame(b, kindCredit, 1, []byte{0, 0, 1, 0}))
	f.Fuzz(func(t *testing.T, data []byte) {
		rw := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(data), io.Discard}
		if err := Serve(context.Background(), rw, 1, func(s *Stream) { s.Recv() }); err != nil {
			t.Error(err)
		}
	})
}
