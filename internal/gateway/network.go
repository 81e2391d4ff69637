package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/netlog"
)

// FlowList lists flows that wait for an answer.
type FlowList struct {
	Flows []api.PendingFlow `json:"flows" nullable:"false"`
}

// LogLine is one line of a network's record, or the error that ended its reading.
type LogLine struct {
	api.NetworkEntry
	Error *Failure `json:"error,omitempty"`
}

func (s *Server) networkRoutes() {
	network := func(id, method, path string, scope apikey.Scope, summary string) op {
		return op{ID: id, Method: method, Path: "/v1/sandboxes/{id}/network" + path, Scope: scope, Tag: tagNetwork, Summary: summary}
	}
	route(s, network("get-network", http.MethodGet, "", apikey.Read, "Read what a sandbox may reach"), s.getNetwork)
	route(s, network("set-network", http.MethodPut, "", apikey.Manage, "Change what a sandbox may reach, at once"), s.setNetwork)
	route(s, network("list-pending-flows", http.MethodGet, "/pending", apikey.Read, "List the flows that wait for an answer"), s.pendingFlows)
	route(s, network("answer-flow", http.MethodPost, "/answer", apikey.Manage, "Answer a flow that waits, and all that wait for the same"), s.answerFlow)
	events := network("watch-flows", http.MethodGet, "/events", apikey.Read, "Watch flows that wait for answers")
	events.Answers = map[string]*huma.Schema{typeSSE: schemaOf[FlowLine](s)}
	stream(s, events, s.watchFlows)
	log := network("read-network-log", http.MethodGet, "/log", apikey.Read, "Read the record of a sandbox's network")
	log.Answers = map[string]*huma.Schema{typeNDJSON: schemaOf[LogLine](s)}
	stream(s, log, s.networkLog)
	route(s, network("verify-network-log", http.MethodGet, "/verify", apikey.Read, "Hold the network's record against its hashes"), s.verifyNetworkLog)
	route(s, network("get-har", http.MethodGet, "/har", apikey.Read, "Export the HTTP requests of a sandbox as HAR 1.2"), s.har)
	s.pcapRoutes()
}

func (s *Server) getNetwork(ctx context.Context, in *Ref) (*reply[api.Network], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	n, err := sb.Network(ctx)
	return &reply[api.Network]{n}, err
}

type networkInput struct {
	Ref
	Body api.NetworkChange
}

func (s *Server) setNetwork(ctx context.Context, in *networkInput) (*reply[api.Network], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	n, err := sb.SetNetwork(ctx, in.Body)
	return &reply[api.Network]{n}, err
}

func (s *Server) pendingFlows(ctx context.Context, in *Ref) (*reply[FlowList], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	flows, err := sb.PendingFlows(ctx)
	return &reply[FlowList]{FlowList{filled(flows)}}, err
}

type answerInput struct {
	Ref
	Body api.FlowAnswer
}

func (s *Server) answerFlow(ctx context.Context, in *answerInput) (*reply[api.FlowOutcome], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	rule, err := sb.AnswerFlow(ctx, in.Body)
	return &reply[api.FlowOutcome]{api.FlowOutcome{Rule: rule}}, err
}

// FlowLine is an event of flows that wait, or the error that ended their stream.
type FlowLine struct {
	api.FlowEvent
	Error *Failure `json:"error,omitempty"`
}

func (s *Server) watchFlows(in *Ref, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), *in)
	if err != nil {
		return err
	}
	return serveEvents(w, r, func(send func(name string, data any) error) error {
		return sb.WatchFlows(r.Context(), func(e smolvm.FlowEvent) error { return send(string(e.Kind), e) })
	})
}

type logInput struct {
	Ref
	Since  time.Time `query:"since" doc:"at or after"`
	Host   string    `query:"host" maxLength:"255" doc:"an address, or a name with all names below it"`
	Denied bool      `query:"denied" doc:"what the sandbox did not get, and alarms"`
	Follow bool      `query:"follow" doc:"go on until the sandbox stops"`
}

func (s *Server) networkLog(in *logInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	o := smolvm.NetworkLogOptions{Since: in.Since, Host: in.Host, Denied: in.Denied, Follow: in.Follow}
	w.Header().Set("Content-Type", typeNDJSON)
	w.WriteHeader(http.StatusOK)
	line, flush := json.NewEncoder(w), http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return nil
	}
	err = sb.NetworkLog(r.Context(), o, func(e smolvm.NetworkEntry) error {
		if err := line.Encode(e); err != nil || !in.Follow {
			return err
		}
		return flush.Flush()
	})
	if err != nil && r.Context().Err() == nil {
		f := failure(r.Context(), refuse(err).err)
		return line.Encode(struct {
			Error Failure `json:"error"`
		}{f})
	}
	return nil
}

func (s *Server) verifyNetworkLog(ctx context.Context, in *Ref) (*reply[api.NetworkReport], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	report, err := sb.VerifyNetworkLog(ctx)
	return &reply[api.NetworkReport]{report}, err
}

type harInput struct {
	Ref
	Since time.Time `query:"since" doc:"at or after"`
	Host  string    `query:"host" maxLength:"255" doc:"an address, or a name with all names below it"`
}

func (s *Server) har(ctx context.Context, in *harInput) (*reply[netlog.HAR], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	var entries []smolvm.NetworkEntry
	err = sb.NetworkLog(ctx, smolvm.NetworkLogOptions{Since: in.Since, Host: in.Host}, func(e smolvm.NetworkEntry) error {
		if e.Kind == api.EventHTTP {
			entries = append(entries, e)
		}
		return nil
	})
	return &reply[netlog.HAR]{netlog.HAROf(entries, s.opts.Version)}, err
}
