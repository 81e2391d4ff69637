// Package model is a language model for tests: a server that speaks the HTTP
// APIs of real ones, and whose words are written down beforehand. Everything else
// about it is real, so that a real framework with its real client can be run.
//
//	m := model.New(model.Use("run", map[string]any{"command": "uname"}), model.Say("It is "+model.Result))
//	srv := httptest.NewServer(m)
//	// OPENAI_BASE_URL=srv.URL+"/v1", or ANTHROPIC_BASE_URL=srv.URL; any key
//	...
//	if err := m.Err(); err != nil { t.Error(err) } // ill-formed requests, a tool that was not offered
//
// It speaks OpenAI's chat completions and responses and Anthropic's messages, each
// whole or streamed. A request holds its conversation, and how many turns of the
// model that has says which step comes next: so one Model serves many
// conversations at once, and an agent may ask several times.
package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Result stands, in what is said, for the result of the last tool call.
const Result = "{result}"

// Name is the name of the only model there is. Requests may name any other.
const Name = "scripted"

const (
	// maxBody is far more than a test's conversation.
	maxBody = 32 << 20
	// maxProblems keeps a client that repeats itself from filling the report.
	maxProblems = 20
)

// Step is one turn of the model: words, calls of tools, or both.
type Step struct {
	Text  string
	Calls []Call
}

// Call is one call of a tool.
type Call struct {
	// Tool is the tool's name, or its end: frameworks put a server's name in front.
	Tool string
	// Args become the arguments, as JSON. A string is the input of a tool of free text.
	Args any
	// From, where set, makes Args from the texts of all tool results until now.
	From func(results []string) any
}

// Use is a step that calls one tool. The arguments become JSON.
func Use(tool string, args any) Step { return Step{Calls: []Call{{Tool: tool, Args: args}}} }

// UseFrom is a step that calls one tool with arguments made from the results of
// all calls until now, for example an id that one of them returned.
func UseFrom(tool string, from func(results []string) any) Step {
	return Step{Calls: []Call{{Tool: tool, From: from}}}
}

// Say is a step of words alone, which ends the agent's turn. Result in it is
// replaced.
func Say(text string) Step { return Step{Text: text} }

// Model is a scripted model; it is an http.Handler. Make it with New.
type Model struct {
	// Key, where not empty, is the only API key that is taken.
	Key string
	// Aside answers requests that offer no tools while the next step needs one:
	// agents ask so for titles and summaries. Empty refuses them.
	Aside string

	steps []Step
	mux   *http.ServeMux

	mu       sync.Mutex
	problems []string
	requests []Request
}

// Request is a request that was answered.
type Request struct {
	Path   string
	Stream bool
	// Tools are the names of the offered ones.
	Tools []string
	// Results are the texts of the tool results in the conversation.
	Results []string
	Header  http.Header
	Body    []byte
}

// New returns a model that takes the steps one after the other, in each
// conversation anew.
func New(steps ...Step) *Model {
	m := &Model{steps: steps, mux: http.NewServeMux()}
	m.mux.Handle("POST /v1/chat/completions", m.api(chat{}))
	m.mux.Handle("POST /v1/responses", m.api(responses{}))
	m.mux.Handle("POST /v1/messages", m.api(messages{}))
	m.mux.HandleFunc("POST /v1/messages/count_tokens", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, object{"input_tokens": 100})
	})
	m.mux.HandleFunc("GET /v1/models", listModels)
	m.mux.HandleFunc("GET /v1/models/{id}", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, modelObject(r.PathValue("id")))
	})
	m.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		m.refuse(w, r, http.StatusNotFound, "no such route")
	})
	return m
}

func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.mux.ServeHTTP(w, r) }

// Requests returns the requests that were answered until now.
func (m *Model) Requests() []Request {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.requests)
}

// Err says what was wrong about requests until now, and whether there was any.
func (m *Model) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.problems) > 0 {
		return errors.New(strings.Join(m.problems, "\n"))
	}
	if len(m.requests) == 0 {
		return errors.New("the model was asked nothing")
	}
	return nil
}

// dialect is one of the APIs: it reads requests and writes replies.
type dialect interface {
	read(body []byte) (conversation, error)
	write(w http.ResponseWriter, c conversation, t turn)
}

func (m *Model) api(d dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			m.refuse(w, r, http.StatusRequestEntityTooLarge, err.Error())
			return
		}
		if key := apiKey(r.Header); key == "" || m.Key != "" && key != m.Key {
			m.refuse(w, r, http.StatusUnauthorized, "no API key, or a wrong one")
			return
		}
		c, err := d.read(body)
		if err != nil {
			m.refuse(w, r, http.StatusBadRequest, err.Error())
			return
		}
		t, err := m.next(c)
		if err != nil {
			m.refuse(w, r, http.StatusBadRequest, err.Error())
			return
		}
		m.record(r, c, body)
		d.write(w, c, t)
	}
}

func (m *Model) record(r *http.Request, c conversation, body []byte) {
	q := Request{Path: r.URL.Path, Stream: c.stream, Results: c.results(), Header: r.Header.Clone(), Body: body}
	for _, t := range c.tools {
		q.Tools = append(q.Tools, t.name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests = append(m.requests, q)
}

// refuse answers in the shape that all clients read, and remembers why.
func (m *Model) refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	m.mu.Lock()
	if len(m.problems) < maxProblems {
		m.problems = append(m.problems, fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, why))
	}
	m.mu.Unlock()
	// Clients try again on other statuses; what is wrong here stays wrong.
	w.Header().Set("X-Should-Retry", "false")
	writeJSON(w, status, object{"type": "error", "error": object{"type": "invalid_request_error", "message": why, "code": nil, "param": nil}})
}

// apiKey is the key as OpenAI's or as Anthropic's clients send it.
func apiKey(h http.Header) string {
	if key := h.Get("X-Api-Key"); key != "" {
		return key
	}
	key, _ := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	return key
}

type object map[string]any

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func modelObject(id string) object {
	return object{"id": id, "object": "model", "type": "model", "display_name": id, "created": epoch, "created_at": "2026-01-01T00:00:00Z", "owned_by": "test"}
}

func listModels(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, object{"object": "list", "data": []object{modelObject(Name)}, "has_more": false, "first_id": Name, "last_id": Name})
}
