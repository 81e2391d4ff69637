package intercept

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestTooManyRequests lets a guest have more requests under way, over all its flows,
// than its sandbox may.
func TestTooManyRequests(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	hold := make(chan struct{})
	w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, true), Flow{TLS: true, Decide: func(context.Context, *Request) Answer {
		<-hold
		return Answer{Allow: true}
	}})
	w.in.requests = make(chan struct{}, 2)
	done := make(chan int)
	for _, http2 := range []bool{false, true} {
		go func() {
			res, err := w.client(http2).Get("https://" + testName + "/")
			if err != nil {
				done <- 0
				return
			}
			res.Body.Close()
			done <- res.StatusCode
		}()
	}
	w.await("both requests", func() bool { return len(w.asked) == 2 })
	res, err := w.client(true).Get("https://" + testName + "/")
	must(t, err)
	if body := text(t, res); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(HeaderDenied) != "crowded" {
		t.Errorf("one more: %d %s", res.StatusCode, body)
	}
	close(hold)
	for range 2 {
		if status := <-done; status != 200 {
			t.Errorf("one of those before: %d", status)
		}
	}
	res, err = w.client(true).Get("https://" + testName + "/")
	must(t, err)
	if text(t, res); res.StatusCode != 200 {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
}

// TestManyFlowsGetLess reads how much a guest may send that nobody takes.
func TestManyFlowsGetLess(t *testing.T) {
	a := newAuthority(t)
	cert := a.server(t, testName, time.Hour)
	w := newWorld(t, a.pool(), serveOrigin(t, echo, &cert, true), Flow{TLS: true})
	for before, want := range map[int64]windows{0: wide, manyFlows: narrow} {
		w.in.flows.Store(before)
		conn := w.connFor("h2")
		_, err := io.WriteString(conn, http2.ClientPreface)
		must(t, err)
		fr := http2.NewFramer(conn, conn)
		must(t, fr.WriteSettings())
		f, err := fr.ReadFrame()
		must(t, err)
		s, ok := f.(*http2.SettingsFrame)
		if !ok {
			t.Fatalf("the first frame: %v", f)
		}
		if got, _ := s.Value(http2.SettingInitialWindowSize); int(got) != want.stream {
			t.Errorf("with %d flows: %d bytes of a stream, want %d", before, got, want.stream)
		}
		conn.Close()
		w.await("the end", func() bool { return w.in.flows.Load() <= before })
	}
}
