package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/control"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/manager"
	"github.com/smolvm/smolvm/internal/store"
)

// streamRoutes are those of commands, files and connections.
func (s *Server) streamRoutes() {
	s.execRoutes()
	s.processRoutes()
	s.fileRoutes()
	s.archiveRoutes()
	s.previewRoutes()
	stream(s, op{
		ID: "open-stream", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/stream", Scope: apikey.Read, Tag: tagSandboxes,
		Summary: "Switch to the guest protocol", Hidden: true, Status: http.StatusSwitchingProtocols,
	}, s.openStream)
}

// openTime bounds the first message of a stream, which clients send at once.
const openTime = 10 * time.Second

// openStream serves what internal/remote asks for: one stream of the guest protocol,
// as a supervisor serves it.
func (s *Server) openStream(in *Ref, w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != control.StreamProtocol {
		return api.Errorf(api.Invalid, "open stream: ask for an upgrade to %s", control.StreamProtocol)
	}
	h, err := s.handle(r.Context(), *in)
	if err != nil {
		return err
	}
	conn, buf, err := takeOver(w, control.StreamProtocol)
	if err != nil {
		return err
	}
	defer conn.Close()
	exchangeOf(r.Context()).status = http.StatusSwitchingProtocols
	client := guest.NewConn(control.BufferedConn{Conn: conn, R: buf.Reader})
	conn.SetDeadline(time.Now().Add(openTime))
	work, err := openWork(r.Context(), h, client)
	if err != nil {
		guest.Refuse(client, refuse(err).err)
		return nil
	}
	conn.SetDeadline(time.Time{})
	guest.Relay(r.Context(), client, work)
	return nil
}

// handle finds a sandbox for what the SDK has no words for.
func (s *Server) handle(ctx context.Context, r Ref) (*manager.Handle, error) {
	st, err := store.Open(s.opts.Client.Home)
	if err != nil {
		return nil, err
	}
	return manager.New(st, manager.Options{Binary: s.opts.Client.Binary}).Get(ctx, r.ID)
}

// openWork reads the client's first message and opens the stream that it asks for.
func openWork(ctx context.Context, h *manager.Handle, client guest.Stream) (guest.Stream, error) {
	op, req, err := guest.Accept(client)
	if err != nil {
		return nil, err
	}
	switch op {
	case guest.OpInfo, guest.OpStats, guest.OpProcs, guest.OpPs: // to look is enough
	default:
		if err := allow(ctx, apikey.Run); err != nil {
			return nil, err
		}
	}
	return h.Open(ctx, op, req)
}
