package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

const tagFiles = "Files"

// FileList lists a directory, sorted by name.
type FileList struct {
	Files []api.FileInfo `json:"files" nullable:"false"`
}

// MakeDir says what directory to make.
type MakeDir struct {
	Path    string `json:"path"`
	Mode    string `json:"mode,omitempty"`  // octal, as in chmod(1); empty: 0755
	Owner   string `json:"owner,omitempty"` // user[:group]; empty: root
	Parents bool   `json:"parents,omitempty"`
}

// RenameFile says what to move where, within one file system of the guest.
type RenameFile struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// PathInput is about one file of a sandbox.
type PathInput struct {
	Ref
	Path string `query:"path" required:"true" maxLength:"4096" doc:"absolute path in the sandbox"`
}

const filesPath = "/v1/sandboxes/{id}/files"

func (s *Server) fileRoutes() {
	stream(s, op{
		ID: "read-file", Method: http.MethodGet, Path: filesPath + "/content", Scope: apikey.Run, Tag: tagFiles,
		Summary: "Read a file", Answers: map[string]*huma.Schema{typeBytes: nil}, Errors: []int{http.StatusRequestedRangeNotSatisfiable},
		Details: "One range of bytes may be asked for (Range: bytes=FROM-TO). HEAD tells size and time only.",
	}, s.readFile)
	stream(s, op{
		ID: "write-file", Method: http.MethodPut, Path: filesPath + "/content", Scope: apikey.Run, Tag: tagFiles, RawBody: typeBytes,
		Summary: "Replace a file by the body, whole or not at all", Status: http.StatusNoContent,
	}, s.writeFile)
	route(s, op{
		ID: "stat-file", Method: http.MethodGet, Path: filesPath + "/stat", Scope: apikey.Run, Tag: tagFiles,
		Summary: "Describe a file; a symbolic link is followed",
	}, s.statFile)
	route(s, op{
		ID: "list-files", Method: http.MethodGet, Path: filesPath + "/list", Scope: apikey.Run, Tag: tagFiles,
		Summary: "List a directory",
	}, s.listFiles)
	route(s, op{
		ID: "make-directory", Method: http.MethodPost, Path: filesPath + "/mkdir", Scope: apikey.Run, Tag: tagFiles,
		Summary: "Make a directory",
	}, s.makeDirectory)
	route(s, op{
		ID: "remove-file", Method: http.MethodDelete, Path: filesPath, Scope: apikey.Run, Tag: tagFiles,
		Summary: "Remove a file or directory",
	}, s.removeFile)
	route(s, op{
		ID: "rename-file", Method: http.MethodPost, Path: filesPath + "/rename", Scope: apikey.Run, Tag: tagFiles,
		Summary: "Move a file within one file system",
	}, s.renameFile)
	stream(s, op{
		ID: "watch-files", Method: http.MethodGet, Path: filesPath + "/watch", Scope: apikey.Run, Tag: tagFiles,
		Summary: "Follow the changes below a path",
		Details: "Server-sent events: ready once, then file with a FileEvent for each change.",
		Answers: map[string]*huma.Schema{typeSSE: schemaOf[api.FileEvent](s)},
	}, s.watchFiles)
}

func (s *Server) readFile(in *PathInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	info, err := sb.Stat(r.Context(), in.Path)
	if err != nil {
		return err
	}
	if info.Type != "file" {
		return api.Errorf(api.Invalid, "read %.200q: it is not a regular file", in.Path)
	}
	h := w.Header()
	h.Set("Content-Type", typeBytes)
	h.Set("Cache-Control", "no-store")
	h.Set("Last-Modified", info.ModTime.Format(http.TimeFormat))
	tag := fmt.Sprintf(`"%x-%x"`, info.ModTime.UnixNano(), info.Size)
	h.Set("ETag", tag)
	// Files of the kernel's own say that they are empty.
	if info.Size == 0 {
		return readUnsized(r, w, sb, in.Path)
	}
	h.Set("Accept-Ranges", "bytes")
	span := span{0, info.Size}
	status := http.StatusOK
	if asked := r.Header.Get("Range"); asked != "" && sameFile(r.Header.Get("If-Range"), tag) {
		part, ok, err := parseRange(asked, info.Size)
		if err != nil {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
			return err
		}
		if ok {
			span, status = part, http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", span.from, span.from+span.length-1, info.Size))
		}
	}
	h.Set("Content-Length", strconv.FormatInt(span.length, 10))
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	return copyRange(r, w, sb, in.Path, span, status)
}

// readUnsized reads a file to its end.
func readUnsized(r *http.Request, w http.ResponseWriter, sb *smolvm.Sandbox, path string) error {
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	f, _, err := sb.OpenFile(r.Context(), path)
	if err != nil {
		return err
	}
	defer f.Close()
	return writing(w, r, typeBytes, func(out io.Writer) error {
		_, err := io.Copy(out, f)
		return err
	})
}

func copyRange(r *http.Request, w http.ResponseWriter, sb *smolvm.Sandbox, path string, part span, status int) error {
	f, _, err := sb.OpenRange(r.Context(), path, part.from, part.length)
	if err != nil {
		w.Header().Del("Content-Range")
		return err
	}
	defer f.Close()
	w.WriteHeader(status)
	if n, err := io.Copy(w, f); err != nil || n != part.length {
		// The file has become shorter: what was promised cannot be kept, and must not
		// look whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// span is a part of a file.
type span struct{ from, length int64 }

// sameFile reports whether a range may be sent to who wants it of one state of the file.
func sameFile(ifRange, tag string) bool { return ifRange == "" || ifRange == tag }

// parseRange reads a header for one range of bytes (RFC 9110, section 14.1.2). What is
// not one is as if it were not there.
func parseRange(value string, size int64) (part span, ok bool, err error) {
	first, last, found := strings.Cut(strings.TrimPrefix(value, "bytes="), "-")
	if !found || !strings.HasPrefix(value, "bytes=") {
		return part, false, nil
	}
	from, ferr := strconv.ParseUint(strings.TrimSpace(first), 10, 63)
	to, terr := strconv.ParseUint(strings.TrimSpace(last), 10, 63)
	switch {
	case strings.TrimSpace(first) == "" && terr == nil: // the last bytes
		n := min(int64(to), size)
		part = span{size - n, n}
	case ferr != nil, terr != nil && strings.TrimSpace(last) != "", terr == nil && to < from:
		return part, false, nil
	case terr != nil:
		part = span{int64(from), size - int64(from)}
	default:
		part = span{int64(from), min(int64(to), size-1) - int64(from) + 1}
	}
	if part.length <= 0 {
		return part, false, api.Errorf(api.Invalid, "read %.60s: the file has %d bytes", value, size).WithCode(codeRange)
	}
	return part, true, nil
}

// writeOptions say how what is written gets into the sandbox.
type writeInput struct {
	PathInput
	Mode    string `query:"mode" pattern:"^[0-7]{1,5}$" doc:"octal, as in chmod(1); left out: the replaced file's, else 0644"`
	Owner   string `query:"owner" maxLength:"200" doc:"user[:group]; left out: the replaced file's, else root"`
	Parents bool   `query:"parents" doc:"make missing directories"`
	Append  bool   `query:"append" doc:"add to the end instead"`
}

func (s *Server) writeFile(in *writeInput, w http.ResponseWriter, r *http.Request) error {
	mode, err := parseMode(in.Mode)
	if err != nil {
		return err
	}
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	err = sb.WriteFile(r.Context(), in.Path, r.Body, smolvm.FileOptions{Mode: mode, Owner: in.Owner, Parents: in.Parents, Append: in.Append})
	if err != nil {
		return bodyError(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// bodyError gives the end of a body that was cut off a class.
func bodyError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) && api.ClassOf(err) == api.Internal {
		return api.Errorf(api.Invalid, "read the body: %w", err)
	}
	return err
}

func parseMode(octal string) (uint32, error) {
	if octal == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(octal, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, api.Errorf(api.Invalid, "mode %.20q is not octal between 0 and 7777", octal)
	}
	return uint32(n), nil
}

func (s *Server) statFile(ctx context.Context, in *PathInput) (*reply[api.FileInfo], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	info, err := sb.Stat(ctx, in.Path)
	return &reply[api.FileInfo]{info}, err
}

func (s *Server) listFiles(ctx context.Context, in *PathInput) (*reply[FileList], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	list, err := sb.ReadDir(ctx, in.Path)
	return &reply[FileList]{FileList{filled(list)}}, err
}

type mkdirInput struct {
	Ref
	Body MakeDir
}

func (s *Server) makeDirectory(ctx context.Context, in *mkdirInput) (*done, error) {
	mode, err := parseMode(in.Body.Mode)
	if err != nil {
		return nil, err
	}
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return new(done), sb.Mkdir(ctx, in.Body.Path, smolvm.FileOptions{Mode: mode, Owner: in.Body.Owner, Parents: in.Body.Parents})
}

type removeFileInput struct {
	PathInput
	Recursive bool `query:"recursive" doc:"a directory with all it holds"`
	Force     bool `query:"force" doc:"a missing file is no error"`
}

func (s *Server) removeFile(ctx context.Context, in *removeFileInput) (*done, error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return new(done), sb.RemoveFile(ctx, in.Path, smolvm.RemoveOptions{Recursive: in.Recursive, Force: in.Force})
}

type renameFileInput struct {
	Ref
	Body RenameFile
}

func (s *Server) renameFile(ctx context.Context, in *renameFileInput) (*done, error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return new(done), sb.RenameFile(ctx, in.Body.From, in.Body.To)
}

type watchInput struct {
	PathInput
	Recursive bool `query:"recursive" doc:"all below it too"`
}

func (s *Server) watchFiles(in *watchInput, w http.ResponseWriter, r *http.Request) error {
	sb, err := s.sandbox(r.Context(), in.Ref)
	if err != nil {
		return err
	}
	watch, err := sb.Watch(r.Context(), in.Path, in.Recursive)
	if err != nil {
		return err
	}
	defer watch.Close()
	return serveEvents(w, r, func(send func(string, any) error) error {
		if err := send("ready", struct{}{}); err != nil {
			return err
		}
		for {
			e, err := watch.Next()
			if err == io.EOF {
				return nil // the path is gone
			}
			if err == nil {
				err = send("file", e)
			}
			if err != nil {
				return err
			}
		}
	})
}
