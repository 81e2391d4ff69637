package gateway

import (
	"embed"
	"net/http"
)

// pages are the documentation that browsers show. Nothing of it comes from elsewhere.
//
//go:embed docs
var pages embed.FS

// docsPolicy lets the pages use their own files and the API, and nothing else.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (s *Server) docsRoutes() {
	for path, file := range map[string]struct{ name, contentType string }{
		"/docs":           {"docs/index.html", "text/html; charset=utf-8"},
		"/docs/app.js":    {"docs/app.js", "text/javascript; charset=utf-8"},
		"/docs/style.css": {"docs/style.css", "text/css; charset=utf-8"},
	} {
		s.page(path, func(w http.ResponseWriter) error {
			b, err := pages.ReadFile(file.name)
			if err != nil {
				return err
			}
			w.Header().Set("Content-Type", file.contentType)
			w.Header().Set("Content-Security-Policy", docsPolicy)
			_, err = w.Write(b)
			return err
		})
	}
	s.page("/openapi.json", func(w http.ResponseWriter) error {
		w.Header().Set("Content-Type", typeJSON)
		_, err := w.Write(s.document)
		return err
	})
}

// page serves something to everybody that is not in the document.
func (s *Server) page(path string, write func(http.ResponseWriter) error) {
	stream(s, op{ID: "page " + path, Method: http.MethodGet, Path: path, Public: true, Hidden: true},
		func(_ *struct{}, w http.ResponseWriter, _ *http.Request) error { return write(w) })
}
