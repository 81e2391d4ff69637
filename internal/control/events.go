package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// maxEvent bounds one line of a stream of events.
const maxEvent = 1 << 20

// WriteEvent writes a server-sent event (HTML standard, section 9.2): its name,
// and data as JSON.
func WriteEvent(w io.Writer, name string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b)
	return err
}

// Events reads a route of server-sent events, and calls f with the data of each,
// until the stream or ctx ends. It returns f's first error.
func (c *Client) Events(ctx context.Context, route string, f func(data []byte) error) error {
	method, path, _ := strings.Cut(route, " ")
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return err
	}
	t := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}
	res, err := t.RoundTrip(req)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return unanswered(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return readAnswer(res, nil)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); ok {
			if err := f(data); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return api.Errorf(api.Unavailable, "read events of the sandbox's supervisor: %w", err)
	}
	return context.Cause(ctx)
}
