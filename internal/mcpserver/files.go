package mcpserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// maxImage bounds a picture that is shown to a model. The Python client takes messages
// of at most 1 MiB over HTTP, and a picture grows by a third on its way.
const maxImage = 512 << 10

func (s *Server) addFiles() {
	add(s, tool[readIn, readOut]{
		name: "read_file", title: "Read a file", scope: apikey.Run,
		about: "Read a part of a file of a sandbox: text, or base64 where it is none. Pictures (PNG, JPEG, GIF, WebP) are shown.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).readFile,
	})
	add(s, tool[writeIn, writeOut]{
		name: "write_file", title: "Write a file", scope: apikey.Run,
		about: "Write a file of a sandbox: replaces it whole, or appends. Missing directories are made.",
		hints: hints{destructive: true, idempotent: true},
		call:  (*call).writeFile,
	})
	add(s, tool[listFilesIn, listFilesOut]{
		name: "list_files", title: "List a directory", scope: apikey.Run,
		about: "List a directory of a sandbox.",
		hints: hints{readOnly: true, idempotent: true},
		call:  (*call).listFiles,
	})
}

type readIn struct {
	where
	Path   string `json:"path"`
	Offset int64  `json:"offset,omitempty" jsonschema:"bytes to leave out at the beginning"`
	Limit  int    `json:"limit,omitempty" jsonschema:"bytes to read"`
}

type readOut struct {
	ran
	Path       string `json:"path"`
	Size       int64  `json:"size" jsonschema:"of the whole file, in bytes"`
	Content    string `json:"content"`
	Encoding   string `json:"encoding" jsonschema:"of content: utf-8, base64, or image where it is shown instead"`
	NextOffset int64  `json:"next_offset,omitempty" jsonschema:"where the next part begins; absent at the end"`

	picture []byte
	kind    string
}

func (o readOut) text() string {
	switch {
	case o.picture != nil:
		return fmt.Sprintf("%s[%s, %d bytes of %s]", o.said(), o.Path, o.Size, o.kind)
	case o.NextOffset > 0:
		return fmt.Sprintf("%s%s\n[%d bytes in all; go on with offset %d]", o.said(), o.Content, o.Size, o.NextOffset)
	case o.Content == "":
		return o.said() + "[empty]"
	}
	return o.said() + o.Content
}

func (o readOut) images() []mcp.Content {
	if o.picture == nil {
		return nil
	}
	return []mcp.Content{&mcp.ImageContent{Data: o.picture, MIMEType: o.kind}}
}

func (c *call) readFile(ctx context.Context, in readIn) (readOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return readOut{}, err
	}
	f, info, err := sb.OpenFile(ctx, in.Path)
	if err != nil {
		return readOut{}, fileError(err)
	}
	defer f.Close()
	out := readOut{ran: r, Path: in.Path, Size: info.Size, Encoding: api.EncodingUTF8}
	if _, err := io.CopyN(io.Discard, f, in.Offset); err != nil && err != io.EOF {
		return readOut{}, err
	}
	// One byte more tells whether there is more.
	b, err := io.ReadAll(io.LimitReader(f, int64(in.Limit)+1))
	if err != nil {
		return readOut{}, err
	}
	if in.Offset == 0 {
		if kind := pictureKind(b); kind != "" && info.Size <= maxImage {
			rest, err := io.ReadAll(io.LimitReader(f, maxImage))
			out.picture, out.kind, out.Encoding = append(b, rest...), kind, "image"
			return out, err
		}
	}
	out.fill(b, in)
	return out, nil
}

// fill puts a part of a file into a result.
func (o *readOut) fill(b []byte, in readIn) {
	part, next := page(b, 0, in.Limit)
	if next > 0 {
		o.NextOffset = in.Offset + next
	}
	if utf8.Valid(part) && bytes.IndexByte(part, 0) < 0 {
		o.Content = string(part)
		return
	}
	o.Content, o.Encoding = base64.StdEncoding.EncodeToString(part), api.EncodingBase64
}

func pictureKind(b []byte) string {
	switch kind := http.DetectContentType(b); kind {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return kind
	}
	return ""
}

func fileError(err error) error {
	if api.ClassOf(err) != api.NotFound {
		return err
	}
	e := api.AsError(err)
	if e.Recovery == "" {
		e.Recovery = "Call list_files to see what is there."
	}
	return e
}

type writeIn struct {
	where
	Path     string `json:"path"`
	Content  string `json:"content"`
	Encoding string `json:"encoding,omitempty" jsonschema:"of content; default utf-8"`
	Mode     string `json:"mode,omitempty" jsonschema:"permissions in octal, such as 755; default 644, or what the file has"`
	Append   bool   `json:"append,omitempty" jsonschema:"add to the end instead of replacing the file"`
}

type writeOut struct {
	ran
	Path  string `json:"path"`
	Bytes int    `json:"bytes" jsonschema:"written"`
}

func (o writeOut) text() string {
	return fmt.Sprintf("%swrote %d bytes to %s", o.said(), o.Bytes, o.Path)
}

func (c *call) writeFile(ctx context.Context, in writeIn) (writeOut, error) {
	content := []byte(in.Content)
	if in.Encoding == api.EncodingBase64 {
		var err error
		if content, err = base64.StdEncoding.DecodeString(in.Content); err != nil {
			return writeOut{}, api.Errorf(api.Invalid, "write %q: content is not base64: %w", in.Path, err)
		}
	}
	var mode uint64
	if in.Mode != "" {
		mode, _ = strconv.ParseUint(in.Mode, 8, 32) // the schema lets octal digits through
	}
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return writeOut{}, err
	}
	o := smolvm.FileOptions{Mode: uint32(mode), Parents: true, Append: in.Append}
	if err := sb.WriteFile(ctx, in.Path, bytes.NewReader(content), o); err != nil {
		return writeOut{}, fileError(err)
	}
	return writeOut{r, in.Path, len(content)}, nil
}

type listFilesIn struct {
	where
	Path   string `json:"path"`
	Offset int    `json:"offset,omitempty" jsonschema:"entries to leave out at the beginning"`
	Limit  int    `json:"limit,omitempty" jsonschema:"entries to list"`
}

type fileOut struct {
	Name     string `json:"name"`
	Type     string `json:"type" jsonschema:"file, dir, symlink or other"`
	Size     int64  `json:"size" jsonschema:"bytes"`
	Mode     string `json:"mode" jsonschema:"permissions in octal"`
	Modified string `json:"modified" jsonschema:"RFC 3339"`
	Target   string `json:"target,omitempty" jsonschema:"of a symbolic link"`
}

type listFilesOut struct {
	ran
	Path       string    `json:"path"`
	Files      []fileOut `json:"files"`
	Total      int       `json:"total" jsonschema:"entries of the directory"`
	NextOffset int       `json:"next_offset,omitempty" jsonschema:"where the next part begins; absent at the end"`
}

func (o listFilesOut) text() string {
	var b strings.Builder
	b.WriteString(o.said())
	for _, f := range o.Files {
		switch f.Type {
		case "dir":
			fmt.Fprintf(&b, "%s/\n", f.Name)
		case "symlink":
			fmt.Fprintf(&b, "%s -> %s\n", f.Name, f.Target)
		default:
			fmt.Fprintf(&b, "%s (%d bytes)\n", f.Name, f.Size)
		}
	}
	switch {
	case o.NextOffset > 0:
		fmt.Fprintf(&b, "[%d entries in all; go on with offset %d]", o.Total, o.NextOffset)
	case len(o.Files) == 0:
		b.WriteString("[empty]")
	}
	return b.String()
}

func (c *call) listFiles(ctx context.Context, in listFilesIn) (listFilesOut, error) {
	sb, r, err := c.running(ctx, in.Sandbox)
	if err != nil {
		return listFilesOut{}, err
	}
	list, err := sb.ReadDir(ctx, in.Path)
	if err != nil {
		return listFilesOut{}, fileError(err)
	}
	out := listFilesOut{ran: r, Path: in.Path, Files: []fileOut{}, Total: len(list)}
	begin := min(in.Offset, len(list))
	end := min(begin+in.Limit, len(list))
	for _, f := range list[begin:end] {
		out.Files = append(out.Files, fileOut{
			f.Name, f.Type, f.Size, fmt.Sprintf("%04o", f.Mode&0o7777), f.ModTime.Format(time.RFC3339), f.Target,
		})
	}
	if end < len(list) {
		out.NextOffset = end
	}
	return out, nil
}
