package gateway

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/smolvm/smolvm/internal/apikey"
)

// op describes a route.
type op struct {
	ID      string // of the operation, such as "list-sandboxes"
	Method  string
	Path    string
	Summary string
	Details string // more words for the document
	Tag     string // heading in the document

	Scope  apikey.Scope // that the caller needs
	Public bool         // anybody may call it, without a key

	Status  int                     // of success; zero: 200, or 204 where there is no body
	Answers map[string]*huma.Schema // content types of an answer that a stream writes; nil schema: bytes

	MaxBody int64  // of a JSON body, in bytes; zero: defaultBody
	RawBody string // content type of a body that the handler reads itself; empty: there is none
	Errors  []int  // statuses beside those that any route may have
	Body    *huma.RequestBody
	Hidden  bool // not in the document
}

const defaultBody = 1 << 20

// route registers an operation whose input and output are described by their types,
// as huma has it: fields with tags path, query and header, and a Body.
func route[I, O any](s *Server, o op, f func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, s.operation(o), func(ctx context.Context, in *I) (*O, error) {
		x := exchangeOf(ctx)
		// The bound of the body's time must not end a handler that takes longer.
		http.NewResponseController(x.w).SetReadDeadline(time.Time{})
		out, err := f(ctx, in)
		if err != nil {
			return nil, refuse(err)
		}
		return out, nil
	})
}

// stream registers an operation whose handler writes the answer itself, may read the
// body (op.RawBody) and may take the connection over. Its context, which is the
// request's, also ends when the server is to end. An error that the handler returns
// before it has written anything is answered.
func stream[I any](s *Server, o op, f func(in *I, w http.ResponseWriter, r *http.Request) error) {
	type answer struct{ Body func(huma.Context) }
	huma.Register(s.api, s.operation(o), func(ctx context.Context, in *I) (*answer, error) {
		http.NewResponseController(exchangeOf(ctx).w).SetReadDeadline(time.Time{})
		return &answer{func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(s.closing, cancel)()
			if err := f(in, w, r.WithContext(ctx)); err != nil {
				s.fail(w, r, err)
			}
		}}, nil
	})
}

// operation is what huma is told of an op.
func (s *Server) operation(o op) huma.Operation {
	if o.Scope == "" && !o.Public {
		panic("gateway: " + o.ID + " has no scope")
	}
	if o.MaxBody == 0 {
		o.MaxBody = defaultBody
	}
	h := huma.Operation{
		OperationID: o.ID, Method: o.Method, Path: o.Path, Summary: o.Summary, Description: o.Details,
		DefaultStatus: o.Status, MaxBodyBytes: o.MaxBody + 1, BodyReadTimeout: s.opts.BodyTime, Hidden: o.Hidden,
		RequestBody: o.Body, Responses: s.responses(o), RejectUnknownQueryParameters: true,
		Middlewares: huma.Middlewares{s.admit(o), mendStatus},
	}
	if o.Tag != "" {
		h.Tags = []string{o.Tag}
	}
	if !o.Public {
		h.Security = []map[string][]string{{"key": {}}}
		h.Description = strings.TrimSpace(o.Details + "\n\nNeeds the scope " + string(o.Scope) + ".")
	}
	if o.RawBody != "" {
		h.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{
			o.RawBody: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}
	}
	return h
}

// responses documents what a route may answer beside its success.
func (s *Server) responses(o op) map[string]*huma.Response {
	out := map[string]*huma.Response{}
	failures := append([]int{400, 500, 503, 504}, o.Errors...)
	if !o.Public {
		failures = append(failures, 401, 403, 429)
	}
	if strings.Contains(o.Path, "{") {
		failures = append(failures, 404, 409)
	}
	if o.Method != http.MethodGet {
		failures = append(failures, 408, 413, 415)
	}
	slices.Sort(failures)
	for _, status := range slices.Compact(failures) {
		out[strconv.Itoa(status)] = s.failureResponse(status)
	}
	// Of net/http itself, before any route is looked for.
	out["431"] = &huma.Response{Description: "The request's head is too large", Content: map[string]*huma.MediaType{
		typeText: {Schema: &huma.Schema{Type: huma.TypeString}},
	}}
	if o.Answers != nil {
		status := max(o.Status, http.StatusOK)
		if o.Status == http.StatusSwitchingProtocols {
			status = o.Status
		}
		res := &huma.Response{Description: http.StatusText(status), Content: map[string]*huma.MediaType{}}
		for ct, schema := range o.Answers {
			if schema == nil {
				schema = &huma.Schema{Type: huma.TypeString, Format: "binary"}
			}
			res.Content[ct] = &huma.MediaType{Schema: schema}
		}
		out[strconv.Itoa(status)] = res
	}
	return out
}

// schemaOf is the schema of a type, for op.Answers.
func schemaOf[T any](s *Server) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(typeOf[T](), true, "")
}
