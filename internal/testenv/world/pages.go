package world

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"

	"golang.org/x/net/websocket"
)

// quiet keeps to itself that a client did not like a certificate.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func pages() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", r.Host)
	})
	m.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(r.Header)
	})
	m.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(flushed{w}, r.Body)
	})
	m.HandleFunc("/bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		io.CopyN(w, zeros{}, n)
	})
	m.HandleFunc("/status/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 200 || n > 599 {
			n = http.StatusBadRequest
		}
		w.WriteHeader(n)
	})
	return m
}

// flushed sends each piece at once.
type flushed struct{ http.ResponseWriter }

func (f flushed) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// socket sends back each message as it came, text or binary.
func socket() http.Handler {
	m := http.NewServeMux()
	message := websocket.Codec{
		Marshal:   func(v any) ([]byte, byte, error) { f := v.(*frame); return f.data, f.kind, nil },
		Unmarshal: func(data []byte, kind byte, v any) error { *v.(*frame) = frame{data, kind}; return nil },
	}
	// A Server, not a Handler: that one refuses clients without an Origin.
	m.Handle("/echo", websocket.Server{Handler: func(ws *websocket.Conn) {
		for {
			var f frame
			if message.Receive(ws, &f) != nil || message.Send(ws, &f) != nil {
				return
			}
		}
	}})
	return m
}

type frame struct {
	data []byte
	kind byte
}
