package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
)

// A body that breaks off is either cut or said to be broken, as its reader can take it.
func TestBrokenBodyDoesNotLookWhole(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{w: w}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		writing(&recorder{w, x}, r, typeBytes, func(out io.Writer) error {
			io.WriteString(out, "half")
			if r.URL.Path == "/whole" {
				return nil
			}
			return errors.New("the disk broke")
		})
	}))
	defer srv.Close()
	get := func(path, te string) (body string, trailer http.Header, err error) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		if te != "" {
			req.Header.Set("TE", te)
		}
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), res.Trailer, err
	}
	for _, te := range []string{"", "gzip;q=0.5"} {
		if body, _, err := get("/broken", te); !errors.Is(err, io.ErrUnexpectedEOF) || body != "half" {
			t.Errorf("TE %q: %q, %v", te, body, err)
		}
	}
	for _, te := range []string{"trailers", "gzip;q=0.5, Trailers"} {
		body, trailer, err := get("/broken", te)
		if err != nil || body != "half" || !strings.Contains(trailer.Get(api.TrailerError), "the disk broke") {
			t.Errorf("TE %q: %q, %v, %v", te, body, trailer, err)
		}
	}
	if body, trailer, err := get("/whole", ""); err != nil || body != "half" || trailer.Get(api.TrailerError) != "" {
		t.Errorf("a whole one: %q, %v, %v", body, trailer, err)
	}
}
