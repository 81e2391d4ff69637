package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
)

// path joins a path of the API of segments, which are escaped.
func path(segments ...string) string {
	p := "/v1"
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// query adds to a path the parameters that are not empty.
func query(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Add(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// flag is a parameter that is there or not.
func flag(set bool) string {
	if set {
		return "true"
	}
	return ""
}

func (c *Client) request(method, path string) control.Request {
	return control.Request{Method: method, Path: c.prefix + path}
}

// call sends in (nil: nothing) and reads the answer into out (nil: dropped).
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	return c.peer.Call(ctx, c.request(method, path), in, out)
}

// made is the last line of an answer that told of progress: what was made, or why not.
type made struct {
	Progress  *api.Progress `json:"progress"`
	Sandbox   *api.Sandbox  `json:"sandbox"`
	Sandboxes []api.Sandbox `json:"sandboxes"`
	Template  *api.Template `json:"template"`
	Error     *api.Error    `json:"error"`
}

// errMade ends the reading of lines.
var errMade = errors.New("the last line came")

// make posts in for an act, tells of progress and returns what was made: also where ctx has ended
// meanwhile, so that the caller can take it back. The lease, which may be nil, is for
// what is ephemeral.
func (c *Client) make(ctx context.Context, act, path string, in any, l *lease) (made, error) {
	r, err := withJSON(c.request(http.MethodPost, path), in)
	r.Outcome = true
	if err != nil {
		return made{}, err
	}
	r.Header.Set("Accept", "application/x-ndjson")
	if l != nil {
		r.Header.Set(api.HeaderLease, l.id)
	}
	var last made
	err = c.peer.Lines(ctx, r, func(line []byte) error {
		var m made
		if len(line) == 0 {
			return nil
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return api.Errorf(api.Internal, "%s said %.200q: %w", c.peer.Name, line, err)
		}
		if m.Progress != nil {
			c.progress(m.Progress.Step, m.Progress.Done, m.Progress.Total)
			return nil
		}
		last = m
		return errMade
	})
	switch {
	case errors.Is(err, errMade) && last.Error == nil:
		return last, nil
	case ctx.Err() != nil:
		return made{}, ended(ctx, act)
	case errors.Is(err, errMade):
		return made{}, last.Error
	case err != nil:
		return made{}, err
	}
	return made{}, api.Errorf(api.Unavailable, "ask %s: %w", c.peer.Name, errBroken)
}

// ended is the error of an act that the end of ctx has ended.
func ended(ctx context.Context, act string) error {
	class := api.Unavailable
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		class = api.Timeout
	}
	return api.Errorf(class, "%s: %w", act, context.Cause(ctx))
}

func withJSON(r control.Request, in any) (control.Request, error) {
	r.Header = http.Header{}
	if in == nil {
		return r, nil
	}
	b, err := json.Marshal(in)
	if err != nil {
		return r, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Body = bytes.NewReader(b)
	return r, nil
}

// download copies the body of an answer to w and returns its trailer.
func (c *Client) download(ctx context.Context, path string, w io.Writer) (http.Header, error) {
	r := c.request(http.MethodGet, path)
	r.Header = http.Header{"Te": {"trailers"}}
	res, err := c.peer.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	from := &remembering{r: res.Body}
	if _, err := io.Copy(w, from); err != nil {
		if from.err == nil {
			return nil, err // the caller's own
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, api.Errorf(api.Unavailable, "read from %s: %w", c.peer.Name, err)
	}
	var e api.Error
	if text := res.Trailer.Get(api.TrailerError); text != "" {
		if json.Unmarshal([]byte(text), &e) != nil || e.Class == "" {
			return nil, api.Errorf(api.Internal, "%s ended with %.200q", c.peer.Name, text)
		}
		return nil, &e
	}
	return res.Trailer, nil
}
