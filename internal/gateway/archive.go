package gateway

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

func (s *Server) archiveRoutes() {
	tar := map[string]*huma.Schema{typeTar: nil}
	stream(s, op{
		ID: "read-archive", Method: http.MethodGet, Path: filesPath + "/archive", Scope: apikey.Run, Tag: tagFiles, Answers: tar,
		Summary: "Read files as a tar archive", Details: "An archive that could not be finished has the trailer " + api.TrailerError + ".",
	}, s.readArchive)
	stream(s, op{
		ID: "write-archive", Method: http.MethodPut, Path: filesPath + "/archive", Scope: apikey.Run, Tag: tagFiles, RawBody: typeTar,
		Summary: "Unpack a tar archive below a directory", Answers: map[string]*huma.Schema{typeJSON: schemaOf[smolvm.Copied](s)},
	}, s.writeArchive)
	route(s, op{
		ID: "mark-files", Method: http.MethodPost, Path: filesPath + "/mark", Scope: apikey.Run, Tag: tagFiles,
		Summary: "Remember the files as they are now, for changes",
	}, s.markFiles)
	stream(s, op{
		ID: "read-changes", Method: http.MethodGet, Path: filesPath + "/changes", Scope: apikey.Run, Tag: tagFiles, Answers: tar,
		Summary: "Read what changed since the last mark, as the tar archive of an OCI layer",
	}, s.readChanges)
}

type readArchiveInput struct {
	Ref
	Dir  string   `query:"dir" required:"true" maxLength:"4096" doc:"absolute path; names in the archive are below it"`
	Path []string `query:"path,explode" maxItems:"1000" doc:"relative to dir; left out: all below it"`
}

func (s *Server) readArchive(in *readArchiveInput, w http.ResponseWriter, r *http.Request) error {
	return s.download(in.Ref, w, r, func(sb *smolvm.Sandbox) (io.ReadCloser, error) {
		return sb.TarOut(r.Context(), in.Dir, in.Path...)
	})
}

func (s *Server) readChanges(in *Ref, w http.ResponseWriter, r *http.Request) error {
	return s.download(*in, w, r, func(sb *smolvm.Sandbox) (io.ReadCloser, error) { return sb.Changes(r.Context()) })
}

// download answers with a tar stream of a sandbox.
func (s *Server) download(ref Ref, w http.ResponseWriter, r *http.Request, open func(*smolvm.Sandbox) (io.ReadCloser, error)) error {
	sb, err := s.sandbox(r.Context(), ref)
	if err != nil {
		return err
	}
	tar, err := open(sb)
	if err != nil {
		return err
	}
	defer tar.Close()
	return writing(w, r, typeTar, func(out io.Writer) error {
		_, err := io.Copy(out, tar)
		return err
	})
}

type writeArchiveInput struct {
	Ref
	Dir   string `query:"dir" required:"true" maxLength:"4096" doc:"absolute path; everything stays below it"`
	Owner string `query:"owner" maxLength:"200" doc:"user[:group] that gets everything; left out: the archive's numbers"`
}

func (s *Server) writeArchive(in *writeArchiveInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	n, err := sb.TarIn(r.Context(), in.Dir, r.Body, smolvm.CopyOptions{Owner: in.Owner})
	if err != nil {
		return bodyError(err)
	}
	return answerJSON(w, http.StatusOK, n)
}

func (s *Server) markFiles(ctx context.Context, in *Ref) (*done, error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	return new(done), sb.Mark(ctx)
}
