package network

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/secret"
	"github.com/smolvm/smolvm/internal/testenv/world"
)

func TestSecrets(t *testing.T) {
	w := world.Start(t)
	ca := openCA(t)
	vault := secret.NewVault([]byte("key"))
	if err := vault.Set(api.Secret{Name: "TOKEN", Hosts: []string{world.WWW}, Value: "hunter2"}); err != nil {
		t.Fatal(err)
	}
	_, placeholder, _ := strings.Cut(vault.Env()[0], "=")
	s := start(t, w, Config{CA: ca, Secrets: vault}, w.Allow(world.WWW, world.Git))
	c := s.client(t, ca.PEM())
	ask := func(url string) string {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+placeholder)
		r, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := ask(w.URL(world.WWW, "/headers")); !strings.Contains(got, "Bearer hunter2") {
		t.Errorf("the server got %s", got)
	}
	e := s.book.kind(t, api.EventHTTP, api.PolicyAllow)
	if len(e.Secrets) != 1 || e.Secrets[0] != "TOKEN" {
		t.Errorf("http: %+v", e)
	}
	if got := ask(w.PlainURL(world.WWW, "/headers")); !strings.Contains(got, placeholder) || strings.Contains(got, "hunter2") {
		t.Errorf("the server got %s in clear", got)
	}
	e = s.book.wait(t, "an alarm", func(e api.NetworkEntry) bool { return e.Kind == api.EventAlarm })
	if len(e.Secrets) != 1 || e.Secrets[0] != "TOKEN" || e.Reason == "" || e.HTTP == nil {
		t.Errorf("alarm: %+v", e)
	}
}
