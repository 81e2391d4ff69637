package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
)

func TestRequests(t *testing.T) {
	d := open(t, gateway.Options{Hosts: []string{"box.example"}})
	sb := d.create(smolvm.Spec{Name: "web"})
	var info api.Sandbox
	d.call(200, "GET", "/v1/sandboxes/web", nil, &info)
	if info.ID != sb.ID() {
		t.Errorf("%+v", info)
	}
	var v gateway.Version
	d.answered(d.sendTCP("GET", "/v1/version", nil, "X-Request-Id: mine.1"), 200, &v)
	if v.API != "v1" || v.Version != "test" {
		t.Errorf("%+v", v)
	}
	d.refused(d.send("GET", "/v1/sandboxes/none", nil), 404, api.NotFound, "")
	d.refused(d.send("GET", "/nothing", nil), 404, api.NotFound, "no_route")
	d.refused(d.send("PATCH", "/v1/version", nil), 405, api.Invalid, "method_not_allowed")
	f := d.refused(d.send("GET", "/v1/version?x=1", nil), 400, api.Invalid, "")
	if !strings.Contains(f.Message, "query.x") {
		t.Errorf("%+v", f)
	}
}

func TestWhoMayCome(t *testing.T) {
	d := open(t, gateway.Options{Hosts: []string{"box.example"}})
	admin := d.token
	d.answered(d.sendTCP("GET", "/v1/version", nil), 200, nil)
	d.answered(d.sendTCP("GET", "/v1/version", nil, "Host: box.example", "Origin: http://box.example"), 200, nil)
	d.refused(d.sendTCP("GET", "/v1/version", nil, "Host: evil.example"), 403, api.Denied, "host")
	d.refused(d.sendTCP("GET", "/v1/version", nil, "Origin: http://evil.example"), 403, api.Denied, "origin")
	d.token = ""
	res := d.sendTCP("GET", "/v1/version", nil)
	d.refused(res, 401, api.Denied, "unauthenticated")
	if res.Header.Get("WWW-Authenticate") == "" {
		t.Error("it does not say how to authenticate")
	}
	d.answered(d.sendTCP("GET", "/healthz", nil), 200, nil)
	d.token = admin[:len(admin)-1] + "7"
	if d.token == admin {
		d.token = admin[:len(admin)-1] + "6"
	}
	d.refused(d.sendTCP("GET", "/v1/version", nil), 401, api.Denied, "unauthenticated")
	d.token = d.key(apikey.Options{Name: "reader", Scope: apikey.Read})
	d.answered(d.sendTCP("GET", "/v1/version", nil), 200, nil)
	d.refused(d.sendTCP(http.MethodPost, "/v1/leases", nil), 403, api.Denied, "scope")
	_, err := d.keys.Revoke("reader")
	d.ok(err)
	d.refused(d.sendTCP("GET", "/v1/version", nil), 401, api.Denied, "unauthenticated")
}
