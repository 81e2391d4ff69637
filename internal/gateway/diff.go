package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// ChangeList lists the files that differ, by path.
type ChangeList struct {
	Changes []api.Change `json:"changes" nullable:"false"`
}

const typePatch = "text/x-diff"

func (s *Server) diffRoutes() {
	route(s, op{
		ID: "diff-sandbox", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/diff", Scope: apikey.Run, Tag: tagSaved,
		Summary: "List the files that differ between two steps, or from the image",
	}, s.diff)
	stream(s, op{
		ID: "export-diff", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/diff/export", Scope: apikey.Run, Tag: tagSaved,
		Summary: "Export the differences below a directory",
		Details: "The trailer " + api.TrailerSkipped + " lists, as JSON, the paths that the form cannot carry.",
		Answers: map[string]*huma.Schema{typeTar: nil, typePatch: nil},
	}, s.exportDiff)
}

// Steps names what is compared. A step is given as text: it may be 0, or left out.
type Steps struct {
	From string `query:"from" pattern:"^[0-9]{1,9}$" doc:"a step; left out: the image"`
	To   string `query:"to" pattern:"^[0-9]{1,9}$" doc:"a step; left out: the sandbox as it is now"`
}

func (t Steps) options() (o smolvm.DiffOptions, err error) {
	for _, p := range []struct {
		text string
		to   **int
	}{{t.From, &o.From}, {t.To, &o.To}} {
		if p.text == "" {
			continue
		}
		n, err := strconv.Atoi(p.text)
		if err != nil {
			return o, api.Errorf(api.Invalid, "step %.20q: %w", p.text, err)
		}
		*p.to = &n
	}
	return o, nil
}

type diffInput struct {
	Ref
	Steps
	Patch bool `query:"patch" doc:"tell the changes of text files too"`
}

func (s *Server) diff(ctx context.Context, in *diffInput) (*reply[ChangeList], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	o.Patch = in.Patch
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	list, err := sb.Diff(ctx, o)
	return &reply[ChangeList]{ChangeList{filled(list)}}, err
}

type exportInput struct {
	Ref
	Steps
	Dir    string `query:"dir" maxLength:"4096" doc:"absolute path; left out: /"`
	Format string `query:"format" enum:"tar,patch" default:"tar"`
}

// maxSkipped bounds the trailer: readers of HTTP take no longer trailers. More are counted.
const maxSkipped = 48 << 10

func (s *Server) exportDiff(in *exportInput, w http.ResponseWriter, r *http.Request) error {
	o, err := in.options()
	if err != nil {
		return err
	}
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	contentType := typeTar
	if in.Format == string(smolvm.DiffPatch) {
		contentType = typePatch
	}
	if in.Dir == "" {
		in.Dir = "/"
	}
	return writing(w, r, contentType, func(out io.Writer) error {
		skipped, err := sb.ExportDiff(r.Context(), out, in.Dir, smolvm.DiffFormat(in.Format), o)
		if len(skipped) > 0 {
			w.Header().Set(http.TrailerPrefix+api.TrailerSkipped, shortList(skipped))
		}
		return err
	})
}

// shortList is as many of a list as fit, as JSON, and how many more there are.
func shortList(list []string) string {
	size := 0
	for i, name := range list {
		if size += len(name) + 8; size > maxSkipped {
			list = append(list[:i:i], fmt.Sprintf("... and %d more", len(list)-i))
			break
		}
	}
	b, _ := json.Marshal(list)
	return string(b)
}
