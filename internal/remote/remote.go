// Package remote makes, finds and removes sandboxes behind a gateway (smolvm serve),
// over HTTP. It has the methods of package manager, which does so on this machine.
//
//	c, err := remote.New(remote.Options{BaseURL: "https://sandboxes.example.com", APIKey: key})
//	h, err := c.Create(ctx, api.Spec{})
//
// What happens inside a sandbox goes over a connection that the gateway switches to
// the guest protocol, so that commands, files and copies are the same code as for a
// sandbox of this machine: see Handle.Open.
package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/sockpath"
)

// Options says which gateway to speak to.
type Options struct {
	BaseURL  string                               // http://, https:// or unix://
	APIKey   string                               // empty: none is sent
	Progress func(step string, done, total int64) // may be nil
}

// Client speaks to one gateway. It holds no connection between calls.
type Client struct {
	peer     control.Peer
	prefix   string // of every path
	progress func(step string, done, total int64)
}

// errBroken is in the error of a connection that the gateway, or what is between,
// has ended.
var errBroken = errors.New("the connection broke")

// New returns a client of a gateway. Class Invalid for an address that is none, and
// for a key that would go over the network for anybody to read.
func New(o Options) (*Client, error) {
	c := &Client{progress: o.Progress}
	if c.progress == nil {
		c.progress = func(string, int64, int64) {}
	}
	c.peer = control.Peer{Name: "the gateway", Ended: errBroken, Header: http.Header{}}
	if o.APIKey != "" {
		if strings.ContainsFunc(o.APIKey, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, api.Errorf(api.Invalid, "use the API key: it is no key, but has spaces or other characters in it")
		}
		c.peer.Header.Set("Authorization", "Bearer "+o.APIKey)
	}
	// A path may hold what in a URL would mean something.
	if socket, ok := strings.CutPrefix(o.BaseURL, "unix://"); ok {
		if !filepath.IsAbs(socket) {
			return nil, badURL(o.BaseURL, "its path is not absolute")
		}
		c.peer.Host = "localhost"
		c.peer.Dial = dialer(o.BaseURL, func(ctx context.Context) (net.Conn, error) { return dialSocket(ctx, socket) })
		return c, nil
	}
	return c, c.useURL(o)
}

// dialSocket connects to the socket of a gateway of this user, or of root: another
// user who listens there would get all that is sent.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := sockpath.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	uid, err := sockpath.PeerUID(conn)
	if err == nil && foreign(uid, os.Geteuid()) {
		err = api.Errorf(api.Denied, "reach gateway unix://%s: another user listens there (uid %d)", socket, uid).
			WithCode("foreign_gateway").WithRecovery("Use a socket in a directory that only you can write to.")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// foreign reports whether a user is another than we are, and not root.
func foreign(uid, self int) bool { return uid != 0 && uid != self }

// useURL has c speak to the gateway at a URL of http or https.
func (c *Client) useURL(o Options) error {
	u, err := url.Parse(o.BaseURL)
	if err != nil {
		return badURL(o.BaseURL, "it is no URL")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return badURL(u.Redacted(), "it has more than scheme, host and path")
	}
	if u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return badURL(o.BaseURL, "it names no gateway")
	}
	c.peer.Host, c.prefix = u.Host, strings.TrimRight(u.EscapedPath(), "/")
	if u.Scheme == "https" {
		secure := tls.Dialer{Config: &tls.Config{NextProtos: []string{"http/1.1"}}} // a switch of protocols is of HTTP/1.1
		c.peer.Dial = dialer(o.BaseURL, func(ctx context.Context) (net.Conn, error) {
			return secure.DialContext(ctx, "tcp", address(u, "443"))
		})
		return nil
	}
	if o.APIKey != "" && !isLoopback(u.Hostname()) {
		return openKey(o.BaseURL)
	}
	c.peer.Dial = dialer(o.BaseURL, func(ctx context.Context) (net.Conn, error) { return dialPlain(ctx, u, o) })
	return nil
}

func badURL(text, why string) error {
	return api.Errorf(api.Invalid, "use gateway %.200q: %s", text, why).
		WithRecovery("Give an address such as http://127.0.0.1:8080, https://sandboxes.example.com or unix:///path/api.sock.")
}

// openKey refuses to send a key where it could be read on the way.
func openKey(base string) error {
	return api.Errorf(api.Invalid, "use gateway %.200q with an API key: it would go over the network unencrypted", base).
		WithCode("insecure_url").WithRecovery("Use https, or a tunnel to a port of this machine.")
}

// dialer gives an error of dial its class and the next step.
func dialer(base string, dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		var known *api.Error
		if err == nil || errors.As(err, &known) {
			return conn, err
		}
		return nil, api.Errorf(api.Unavailable, "reach gateway %s: %w", base, err).WithCode("gateway_unreachable").
			WithRecovery("Start one with: smolvm serve. Or unset SMOLVM_URL to use this machine.")
	}
}

// dialPlain connects without encryption. A name such as localhost is not believed:
// with a key the other end must be on this machine.
func dialPlain(ctx context.Context, u *url.URL, o Options) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address(u, "80"))
	if err != nil || o.APIKey == "" {
		return conn, err
	}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		conn.Close()
		return nil, openKey(o.BaseURL)
	}
	return conn, nil
}

func address(u *url.URL, defaultPort string) string {
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// isLoopback reports whether a host of a URL is this machine by its looks.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}
