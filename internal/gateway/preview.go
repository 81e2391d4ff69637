package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// PreviewRequest says what server of a sandbox to show.
type PreviewRequest struct {
	Port       int     `json:"port" minimum:"1" maximum:"65535"`                     // of a server in the sandbox
	TTLSeconds float64 `json:"ttl_seconds,omitempty" minimum:"0" maximum:"31536000"` // how long the token is good; zero: an hour
}

// Preview leads to a server in a sandbox.
type Preview struct {
	// URL is for browsers: a host name of its own, with the token.
	URL string `json:"url"`
	// PathURL is for programs that cannot look such names up. Pages below it are shown
	// without the rights of the gateway's own.
	PathURL string    `json:"path_url"`
	Token   string    `json:"token"` // also good as header Smolvm-Preview-Token
	Expires time.Time `json:"expires"`
}

const (
	tagPreview    = "Previews"
	defaultTTL    = time.Hour
	previewParam  = "smolvm_token"
	previewCookie = "smolvm_preview"
	previewHeader = "Smolvm-Preview-Token"
	previewPath   = "/preview/"
	previewSuffix = ".localhost"
)

func (s *Server) previewRoutes() {
	route(s, op{
		ID: "create-preview", Method: http.MethodPost, Path: "/v1/sandboxes/{id}/previews", Scope: apikey.Run, Tag: tagPreview,
		Summary: "Make a URL that leads to a server in the sandbox", Status: http.StatusCreated,
		Details: "The token in it is good for this port until it expires, or this gateway ends.",
	}, s.createPreview)
	s.mux.Handle(previewPath+"{id}/{port}/", http.HandlerFunc(s.previewByPath))
	s.mux.Handle(previewPath+"{id}/{port}", http.HandlerFunc(s.previewByPath))
}

type previewInput struct {
	Ref
	Body PreviewRequest
}

func (s *Server) createPreview(ctx context.Context, in *previewInput) (*reply[Preview], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	ttl := time.Duration(in.Body.TTLSeconds * float64(time.Second))
	if ttl == 0 {
		ttl = defaultTTL
	}
	g := grant{ID: sb.ID(), Port: in.Body.Port, Expires: time.Now().Add(ttl).Unix()}
	if k := exchangeOf(ctx).caller.key; k != nil {
		g.Key = k.ID
	}
	token := s.previews.sign(g)
	host := s.previewHost(ctx)
	port := ""
	if _, p, err := net.SplitHostPort(host); err == nil {
		port = ":" + p
	}
	query := "?" + previewParam + "=" + token
	return &reply[Preview]{Preview{
		URL:     "http://" + strconv.Itoa(g.Port) + "-" + g.ID + previewSuffix + port + "/" + query,
		PathURL: "http://" + host + previewPath + g.ID + "/" + strconv.Itoa(g.Port) + "/" + query,
		Token:   token, Expires: time.Unix(g.Expires, 0).UTC(),
	}}, nil
}

// previewHost is the name, with its port, under which the caller finds the gateway over TCP.
func (s *Server) previewHost(ctx context.Context) string {
	if peerOf(ctx) == peerTCP {
		return exchangeOf(ctx).host
	}
	if addr := s.tcp.Load(); addr != nil {
		return *addr
	}
	return "localhost" // there is none; the paths are good over the Unix socket
}

// grant is what a token is good for.
type grant struct {
	ID      string `json:"i"`
	Port    int    `json:"p"`
	Expires int64  `json:"e"` // in seconds since 1970
	// Key is the id of the key that asked for it, with which it ends. Empty: there was none.
	Key string `json:"k,omitempty"`
}

// previewKey signs tokens. It ends with the gateway, and they with it.
type previewKey [32]byte

func newPreviewKey() (k previewKey) {
	rand.Read(k[:])
	return k
}

func (k *previewKey) mac(body string) []byte {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte(body))
	return h.Sum(nil)
}

func (k *previewKey) sign(g grant) string {
	b, _ := json.Marshal(g)
	body := base64.RawURLEncoding.EncodeToString(b)
	return body + "." + base64.RawURLEncoding.EncodeToString(k.mac(body))
}

// check returns what a token is good for, and whether that is a port now.
func (k *previewKey) check(token string, want target) (g grant, ok bool) {
	body, sum, _ := strings.Cut(token, ".")
	mac, err := base64.RawURLEncoding.DecodeString(sum)
	if err != nil || !hmac.Equal(mac, k.mac(body)) {
		return g, false
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || json.Unmarshal(b, &g) != nil {
		return g, false
	}
	return g, g.ID == want.id && g.Port == want.port && time.Now().Unix() < g.Expires
}

// stands reports whether the key that a token was made with is still good.
func (s *Server) stands(g grant) bool {
	if g.Key == "" {
		return true
	}
	k, err := s.opts.Keys.Get(g.Key)
	return err == nil && k.Scope.Allows(apikey.Run)
}

// target is the server that a preview's request is for, and how it was named.
type target struct {
	id     string
	port   int
	prefix string // of the gateway's paths that are the server's, without a slash at its end; empty: by host name
}

// previewOf reads PORT-ID.localhost.
func previewOf(hostport string) (target, bool) {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	label, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), previewSuffix)
	first, id, found := strings.Cut(label, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if !ok || !found || err != nil || port == 0 || id == "" || strings.Contains(id, ".") {
		return target{}, false
	}
	return target{id: id, port: int(port)}, true
}

// previewByPath serves /preview/{id}/{port}/...
func (s *Server) previewByPath(w http.ResponseWriter, r *http.Request) {
	t := target{id: r.PathValue("id")}
	port, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
	t.port, t.prefix = int(port), previewPath+t.id+"/"+r.PathValue("port")
	// The prefix is compared with paths as they were sent: nothing in it is to need escapes.
	if err != nil || port == 0 || strconv.Itoa(t.port) != r.PathValue("port") || !plainRef().MatchString(t.id) {
		s.fail(w, r, api.Errorf(api.NotFound, "preview %.200q: it names no port of a sandbox", r.URL.Path))
		return
	}
	if r.URL.Path == t.prefix {
		w.Header().Set("Location", t.prefix+"/"+query(r.URL.RawQuery))
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	s.preview(w, r, t)
}

var plainRef = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9-]{1,63}$`) })

func query(raw string) string {
	if raw == "" {
		return ""
	}
	return "?" + raw
}

// preview lets a request with a good token through to the sandbox's server.
func (s *Server) preview(w http.ResponseWriter, r *http.Request, t target) {
	token, from := previewToken(r)
	g, ok := s.previews.check(token, t)
	ok = ok && s.stands(g)
	if !ok && (token != "" || peerOf(r.Context()) != peerOurs) {
		s.fail(w, r, api.Errorf(api.Denied, "preview: this needs a token that is good for port %d of the sandbox", t.port).
			WithCode(codeUnauthenticated).WithRecovery("Ask for one with: POST /v1/sandboxes/%s/previews", cut(t.id, 80)))
		return
	}
	if from == previewParam {
		http.SetCookie(w, &http.Cookie{
			Name: previewCookie, Value: token, Path: t.prefix + "/", Expires: time.Unix(g.Expires, 0),
			HttpOnly: true, SameSite: http.SameSiteLaxMode,
		})
	}
	if from == previewParam && r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
		// A person's browser is to show, keep and send on an address without the token.
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		// Two slashes at its beginning would lead to another host.
		h.Set("Location", "/"+strings.TrimLeft(r.URL.EscapedPath(), "/")+query(withoutToken(r.URL.RawQuery)))
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	s.proxy(w, r, t)
}

// previewToken finds the token of a request, and where it stood.
func previewToken(r *http.Request) (token, from string) {
	if token = r.Header.Get(previewHeader); token != "" {
		return token, previewHeader
	}
	if token = r.URL.Query().Get(previewParam); token != "" {
		return token, previewParam
	}
	if c, err := r.Cookie(previewCookie); err == nil {
		return c.Value, previewCookie
	}
	return "", ""
}

// withoutToken is a query without our parameter, and otherwise as it was.
func withoutToken(raw string) string {
	var kept []string
	for part := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(part, "=")
		if n, err := url.QueryUnescape(name); err == nil && n == previewParam {
			continue
		}
		kept = append(kept, part)
	}
	return strings.Join(kept, "&")
}
