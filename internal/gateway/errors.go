package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm/api"
)

// Failure is the body of every answer that is an error.
type Failure struct {
	api.Error
	RequestID string `json:"request_id"` // also in the header X-Request-Id
}

// Codes of errors that HTTP has a status of its own for.
const (
	codeUnauthenticated = "unauthenticated"
	codeScope           = "scope"
	codeNoRoute         = "no_route"
	codeMethod          = "method_not_allowed"
	codeTooLarge        = "too_large"
	codeBodyTime        = "body_timeout"
	codeMediaType       = "media_type"
	codeRate            = "rate_limited"
	codeConcurrent      = "too_many_at_once"
	codeRange           = "range"
)

// statusOf returns the HTTP status of an error.
func statusOf(e *api.Error) int {
	switch e.Code {
	case codeUnauthenticated:
		return http.StatusUnauthorized
	case codeMethod:
		return http.StatusMethodNotAllowed
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeBodyTime:
		return http.StatusRequestTimeout
	case codeMediaType:
		return http.StatusUnsupportedMediaType
	case codeRange:
		return http.StatusRequestedRangeNotSatisfiable
	}
	return e.Class.Status()
}

// refusal is an error on its way through huma.
type refusal struct{ err *api.Error }

func (r *refusal) Error() string  { return r.err.Message }
func (r *refusal) GetStatus() int { return statusOf(r.err) }

// refuse makes any error one that can be answered.
func refuse(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	e := api.AsError(err)
	var known *api.Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.DeadlineExceeded):
		e.Class = api.Timeout
	case errors.Is(err, context.Canceled):
		e.Class = api.Unavailable
	}
	return &refusal{e}
}

// transformError gives errors, ours and huma's, their one shape.
func transformError(ctx huma.Context, _ string, v any) (any, error) {
	switch e := v.(type) {
	case *refusal:
		return failure(ctx.Context(), e.err), nil
	case *huma.ErrorModel:
		ours := translate(e)
		if m, ok := ctx.(*mending); ok {
			m.status = statusOf(ours)
		}
		ctx.SetHeader("Content-Type", typeJSON) // huma has one of its own for its errors
		return failure(ctx.Context(), ours), nil
	}
	return v, nil
}

func failure(ctx context.Context, e *api.Error) Failure {
	return Failure{Error: *e, RequestID: exchangeOf(ctx).id}
}

// maxFields bounds the complaints about one request that are told.
const maxFields = 20

// translate makes an error of ours of huma's: about a body or parameters.
func translate(m *huma.ErrorModel) *api.Error {
	switch m.Status {
	case http.StatusRequestEntityTooLarge:
		return api.Errorf(api.Exhausted, "%s", m.Detail).WithCode(codeTooLarge)
	case http.StatusRequestTimeout:
		return api.Errorf(api.Timeout, "%s", m.Detail).WithCode(codeBodyTime)
	case http.StatusUnsupportedMediaType:
		return api.Errorf(api.Invalid, "%s", m.Detail).WithCode(codeMediaType).WithRecovery("Send Content-Type: application/json.")
	}
	e := &api.Error{Class: api.Invalid, Message: "request: " + m.Detail}
	if len(m.Errors) > 0 {
		fields := map[string]any{}
		for _, d := range m.Errors[:min(len(m.Errors), maxFields)] {
			if strings.Contains(d.Message, "unknown content type") {
				return api.Errorf(api.Invalid, "%.200s", d.Message).WithCode(codeMediaType).WithRecovery("Send Content-Type: application/json.")
			}
			fields[cut(d.Location, 100)] = cut(d.Message, 200)
		}
		first := m.Errors[0]
		e.Message = "request: " + cut(first.Location, 100) + ": " + cut(first.Message, 200)
		e.Details = map[string]any{"fields": fields}
	}
	return e
}

func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// mending is a context that has our status where huma would answer its own.
type mending struct {
	humaContext
	status int // zero: what huma says
}

type humaContext huma.Context // under another name: the interface has a method Context

// Unwrap lets huma find the request.
func (m *mending) Unwrap() huma.Context { return m.humaContext }

// mendStatus is a middleware that answers complaints of huma with our statuses.
func mendStatus(ctx huma.Context, next func(huma.Context)) { next(&mending{humaContext: ctx}) }

// SetStatus writes the answer's head.
func (m *mending) SetStatus(status int) {
	if m.status != 0 {
		status = m.status
	}
	m.humaContext.SetStatus(status)
}

// fail answers with an error, where nothing has been answered yet.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	if x.status != 0 {
		s.log.Debug("stream broke", "request", x.id, "error", err)
		return
	}
	e := refuse(err).err
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Del("Content-Length")
	if e.Code == codeUnauthenticated {
		h.Set("WWW-Authenticate", `Bearer realm="smolvm"`)
	}
	if e.Code == codeRate || e.Code == codeConcurrent {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(statusOf(e))
	json.NewEncoder(w).Encode(failure(r.Context(), e))
}
