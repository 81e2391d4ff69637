package gateway

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// newAPI returns what describes and decodes our routes. It has none of the pages that
// huma could serve: ours are in docs.go.
func newAPI(mux *http.ServeMux) huma.API {
	return humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "smolvm", Version: apiVersion, Description: aboutAPI},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {Type: "http", Scheme: "bearer", Description: "A key of `smolvm key create`. The Unix socket needs none."},
				},
			},
		},
		Formats:       huma.DefaultFormats,
		DefaultFormat: typeJSON,
		Transformers:  []huma.Transformer{transformError},
	})
}

const apiVersion = "v1"

const aboutAPI = `Disposable computers for AI agents. {id} is a sandbox's id, the unique beginning of one (four
characters or more), or its name. All errors have one shape, Failure.`

// descriptions are what the comments of the Go types say, by the names that JSON has
// for them. A test writes the file.
//
//go:embed descriptions.json
var descriptions []byte

// describe puts the comments of the Go types into the document and returns it.
func describe(doc *huma.OpenAPI) ([]byte, error) {
	var words map[string]string
	if err := json.Unmarshal(descriptions, &words); err != nil {
		return nil, err
	}
	schemas := doc.Components.Schemas.Map()
	// huma's own errors, in whose place ours stand.
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
	for name, schema := range schemas {
		schema.Description = words[name]
		for field, property := range schema.Properties {
			if text := words[name+"."+field]; text != "" {
				property.Description = text
			}
		}
	}
	return json.Marshal(doc)
}

// failureResponse documents an answer that is an error, once for all routes.
func (s *Server) failureResponse(status int) *huma.Response {
	c := s.api.OpenAPI().Components
	if c.Responses == nil {
		c.Responses = map[string]*huma.Response{}
	}
	name := strings.ReplaceAll(http.StatusText(status), " ", "")
	if c.Responses[name] == nil {
		c.Responses[name] = &huma.Response{
			Description: http.StatusText(status),
			Content:     map[string]*huma.MediaType{typeJSON: {Schema: schemaOf[Failure](s)}},
		}
	}
	return &huma.Response{Ref: "#/components/responses/" + name}
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
