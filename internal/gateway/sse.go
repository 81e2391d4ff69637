package gateway

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/control"
)

const typeSSE = "text/event-stream"

// eventBeat is the time between comments in a stream of events: shorter than what
// proxies and routers forget.
const eventBeat = 15 * time.Second

// sendTime is how long an event may wait for its reader: one that does not read is gone.
const sendTime = 15 * time.Second

// events is a stream of server-sent events. It may be used from many goroutines.
type events struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	flush *http.ResponseController
}

func (e *events) send(name string, data any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flush.SetWriteDeadline(time.Now().Add(sendTime))
	if err := control.WriteEvent(e.w, name, data); err != nil {
		return err
	}
	return e.flush.Flush()
}

func (e *events) beat() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flush.SetWriteDeadline(time.Now().Add(sendTime))
	if _, err := io.WriteString(e.w, ":\n\n"); err != nil {
		return err
	}
	return e.flush.Flush()
}

// serveEvents answers with the events that work sends until it returns. Its error,
// unless the client is gone, is the last event, of name error.
func serveEvents(w http.ResponseWriter, r *http.Request, work func(send func(name string, data any) error) error) error {
	w.Header().Set("Content-Type", typeSSE)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	e := &events{w: w, flush: http.NewResponseController(w)}
	if err := e.flush.Flush(); err != nil {
		return nil
	}
	defer e.flush.SetWriteDeadline(time.Time{}) // the connection may go on
	ended := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		tick := time.NewTicker(eventBeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if e.beat() != nil {
					return // work notices by itself
				}
			case <-ended:
				return
			}
		}
	})
	err := work(e.send)
	close(ended)
	beats.Wait()
	if err != nil && r.Context().Err() == nil {
		return e.send("error", struct {
			Error Failure `json:"error"`
		}{failure(r.Context(), refuse(err).err)})
	}
	return nil
}
