package remote

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/smolvm/smolvm/api"
)

func TestURLs(t *testing.T) {
	for _, c := range []struct {
		url, key string
		ok       bool
	}{
		{"http://127.0.0.1:8080", "k", true},
		{"http://[::1]:8080/", "k", true},
		{"https://example.com/below", "k", true},
		{"http://example.com", "", true},
		{"unix:///a/b.sock", "", true},
		{"http://example.com", "k", false}, // the key could be read on the way
		{"http://127.0.0.1.example.com", "k", false},
		{"http://127.0.0.1", "a\r\nb", false},
		{"unix://b.sock", "", false},
		{"http://", "", false},
		{"ftp://example.com", "", false},
		{"http://me:pw@example.com", "", false},
		{"http://example.com?a=b", "", false},
	} {
		_, err := New(Options{BaseURL: c.url, APIKey: c.key})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s with key %q: %v", c.url, c.key, err)
		}
	}
}

func TestRedirectIsRefused(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was followed") }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer first.Close()
	c, err := New(Options{BaseURL: first.URL, APIKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "web"); !errors.Is(err, api.ErrInternal) {
		t.Error(err)
	}
}
