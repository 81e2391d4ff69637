package gateway

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// newAPI returns what describes and decodes our routes. It has none of the pages that
// huma could serve: ours are in docs.go.
func newAPI(mux *http.ServeMux, version string) huma.API {
	return humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "smolvm", Version: version, Description: aboutAPI},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {Type: "http", Scheme: "bearer", Description: "A key of `smolvm key create`. The Unix socket needs none."},
				},
			},
		},
		Formats:       huma.DefaultFormats,
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{transformError},
	})
}

const aboutAPI = `Disposable computers for AI agents. {id} is a sandbox's id, the unique beginning of one (four
characters or more), or its name. All errors have one shape, Failure.`

func (s *Server) failureSchema() *huma.Schema { return schemaOf[Failure](s) }

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
