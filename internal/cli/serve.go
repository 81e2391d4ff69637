package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/gateway"
	"github.com/smolvm/smolvm/internal/sockpath"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/undo"
)

type serveFlags struct {
	socket   string
	listen   []string
	hosts    []string
	idleExit durationFlag
	ifNeeded bool
	verbose  bool
}

// serveData says where a gateway answers.
type serveData struct {
	Socket  string   `json:"socket"`
	URLs    []string `json:"urls"`
	PID     int      `json:"pid,omitempty"`
	Already bool     `json:"already,omitempty"` // another one serves there, and this one has ended
}

func (a *app) newServe() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Offer the HTTP API",
		Long: `Offer over HTTP what this command line can do, until interrupted. Without flags
the API is at api.sock in the state directory, for this user alone and without a
key. Over TCP each request needs a key; see smolvm key create.

When it ends, sandboxes stay as they are, but for ephemeral ones, whose clients
have gone. The first line of output says where it listens; /docs there describes
the routes.`,
		Example: `  smolvm serve
  smolvm serve --listen 127.0.0.1:8080
  smolvm serve --idle-exit 10m --if-needed --json`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) (outcome, error) { return a.serve(ctx, &f) }),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.socket, "socket", "", "`PATH` of the Unix socket (default: api.sock in the state directory)")
	fs.StringSliceVar(&f.listen, "listen", nil, "`ADDRESS:PORT` to listen at too, with keys; port 0 picks one")
	fs.StringSliceVar(&f.hosts, "host", nil, "`NAME` that clients know this server by over TCP, beside localhost")
	fs.Var(&f.idleExit, "idle-exit", "end when there was no connection for this time (default: never)")
	fs.BoolVar(&f.ifNeeded, "if-needed", false, "end at once, without an error, where another one serves already")
	fs.BoolVar(&f.verbose, "verbose", false, "log each request on standard error")
	return cmd
}

func (a *app) serve(ctx context.Context, f *serveFlags) (outcome, error) {
	if err := thisMachine("serve"); err != nil {
		return outcome{}, err
	}
	s, err := store.Open("")
	if err != nil {
		return outcome{}, err
	}
	socket, lockPath := s.Gateway(), s.GatewayLock()
	if f.socket != "" {
		if socket, err = filepath.Abs(f.socket); err != nil {
			return outcome{}, err
		}
		lockPath = socket + ".lock"
	}
	lock, err := store.TryLock(lockPath)
	if errors.Is(err, api.ErrConflict) {
		return outcome{}, a.alreadyServed(socket, f.ifNeeded)
	}
	if err != nil {
		return outcome{}, err
	}
	defer lock.Unlock()
	ls, err := listenAll(socket, f)
	if err != nil {
		return outcome{}, err
	}
	defer os.Remove(socket) // while the lock is held
	d := serveData{Socket: socket, URLs: urls(socket, ls), PID: os.Getpid()}
	a.ready(d)
	g := gateway.New(gateway.Options{
		Client: *a.client(), Keys: apikey.Open(s.APIKeys()), Hosts: f.hosts, Version: a.build.version(),
		IdleExit: time.Duration(f.idleExit), Log: a.serveLog(f.verbose),
	})
	return outcome{}, g.Serve(ctx, ls...)
}

func (a *app) alreadyServed(socket string, fine bool) error {
	if !fine {
		return api.Errorf(api.Conflict, "serve at %s: another one does already", socket).
			WithRecovery("End it, or give --socket PATH, or --if-needed where that is what you want.")
	}
	a.ready(serveData{Socket: socket, URLs: []string{"unix://" + socket}, Already: true})
	return nil
}

// ready tells where the API is: the first line of output, as soon as one can connect.
func (a *app) ready(d serveData) {
	switch {
	case a.json:
		a.event(d)
	case d.Already:
		fmt.Fprintf(a.Out, "another one serves already at %s\n", d.URLs[0])
	default:
		fmt.Fprintf(a.Out, "serving at %s\n", strings.Join(d.URLs, " and "))
	}
}

// serveLog is where requests are told. A fault is told always.
func (a *app) serveLog(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level}))
}

// listenAll listens at the socket, whose lock is held, and at each address of TCP.
func listenAll(socket string, f *serveFlags) (ls []net.Listener, err error) {
	var u undo.Stack
	defer u.Run()
	add := func(l net.Listener) {
		u.Add(func() { l.Close() })
		ls = append(ls, l)
	}
	unix, err := sockpath.Listen(socket)
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "listen at %s: %w", socket, err)
	}
	add(unix)
	for _, addr := range f.listen {
		if err := checkListen(addr, f.hosts); err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, api.Errorf(api.Unavailable, "listen at %s: %w", addr, err).WithRecovery("Give another port, or 0 to have one picked.")
		}
		add(l)
	}
	u.Success()
	return ls, nil
}

// checkListen refuses an address that is not of this host alone, unless a name says
// that this is meant: keys would pass the network as they are.
func checkListen(addr string, hosts []string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("--listen %.80q is not ADDRESS:PORT", addr)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() || len(hosts) > 0 {
		return nil
	}
	return api.Errorf(api.Denied, "listen at %s: other hosts reach it, and nothing encrypts the keys", addr).
		WithRecovery("Use 127.0.0.1 behind a proxy with TLS, or give --host NAME where the network is trusted.")
}

func urls(socket string, ls []net.Listener) []string {
	list := []string{"unix://" + socket}
	for _, l := range ls[1:] {
		list = append(list, "http://"+l.Addr().String())
	}
	return list
}
