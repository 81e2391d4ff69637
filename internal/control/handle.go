package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/smolvm/smolvm/api"
)

// Handle serves a route whose body is an In, of at most maxBody bytes, and whose
// answer is an Out.
func Handle[In, Out any](mux *http.ServeMux, route string, maxBody int64, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if r.ContentLength != 0 {
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
				Answer(w, nil, api.Errorf(api.Invalid, "read request: %w", err))
				return
			}
		}
		out, err := f(r.Context(), in)
		Answer(w, out, err)
	})
}

// Answer writes what Client.Call reads: out, or err where it is not nil.
func Answer(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e := api.AsError(err)
		w.WriteHeader(e.Class.Status())
		out = e
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		slog.Debug("answer", "err", err) // the client went away
	}
}
