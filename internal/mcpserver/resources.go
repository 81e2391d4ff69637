package mcpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// What resources are called, and how large one may be.
const (
	resourceBase = "smolvm://sandbox/"
	resConsole   = "console"
	resNetwork   = "network-log"
	resFile      = "file"

	maxResource  = 512 << 10 // see maxImage
	consoleLines = 1000
)

func (s *Server) addResources() {
	for _, t := range []*mcp.ResourceTemplate{
		{Name: "file", Title: "File of a sandbox", URITemplate: resourceBase + "{sandbox}/" + resFile + "{+path}",
			Description: "A file of a sandbox, by its absolute path. At most 512 KiB; larger ones are read in parts by the tool read_file."},
		{Name: resConsole, Title: "Console of a sandbox", URITemplate: resourceBase + "{sandbox}/" + resConsole,
			Description: "The last lines of the kernel's console.", MIMEType: "text/plain"},
		{Name: resNetwork, Title: "Network log of a sandbox", URITemplate: resourceBase + "{sandbox}/" + resNetwork,
			Description: "The newest part of the record of the network, one JSON object a line: what was asked for, and what was decided.", MIMEType: "application/x-ndjson"},
	} {
		s.mcp.AddResourceTemplate(t, s.read)
	}
}

// addResources lists the logs of the session's sandboxes.
func (st *session) addResources(l *mcp.ListResourcesResult) {
	st.mu.Lock()
	defer st.mu.Unlock()
	l.Resources = []*mcp.Resource{}
	for id := range st.owned {
		for _, log := range []string{resConsole, resNetwork} {
			l.Resources = append(l.Resources, &mcp.Resource{Name: id + " " + log, URI: resourceBase + id + "/" + log})
		}
	}
}

// read reads a resource.
func (s *Server) read(ctx context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
	uri := req.Params.URI
	ref, what, name, ok := parseURI(uri)
	if !ok {
		return nil, mcp.ResourceNotFoundError(uri)
	}
	c := &call{session: sessionOf(ctx)}
	need := apikey.Read
	if what == resFile { // as the tool read_file
		need = apikey.Run
	}
	if !c.caller.may(need) {
		return nil, scopeError("read a resource", need)
	}
	sb, _, err := c.look(ctx, ref)
	if err != nil {
		return nil, notThere(uri, err)
	}
	content := &mcp.ResourceContents{URI: uri}
	switch what {
	case resConsole:
		content.Text, content.MIMEType, err = console(ctx, sb)
	case resNetwork:
		content.Text, content.MIMEType, err = networkLog(ctx, sb)
	default:
		err = file(ctx, sb, name, content)
	}
	if err != nil {
		return nil, notThere(uri, err)
	}
	return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{content}}, nil
}

func notThere(uri string, err error) error {
	if errors.Is(err, api.ErrNotFound) {
		return mcp.ResourceNotFoundError(uri)
	}
	return err
}

// parseURI reads smolvm://sandbox/REF/console, /network-log or /file/PATH.
func parseURI(uri string) (ref, what, name string, ok bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "smolvm" || u.Host != "sandbox" {
		return "", "", "", false
	}
	ref, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	what, name, isFile := strings.Cut(rest, "/")
	switch what {
	case resConsole, resNetwork:
		ok = !isFile
	case resFile:
		ok = isFile && name != ""
	}
	return ref, what, "/" + name, ok && ref != ""
}

func file(ctx context.Context, sb *smolvm.Sandbox, name string, content *mcp.ResourceContents) error {
	b, err := sb.ReadFile(ctx, name, maxResource)
	if err != nil {
		return err
	}
	content.MIMEType = mime.TypeByExtension(path.Ext(name))
	if utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 {
		content.Text = string(b)
		if content.MIMEType == "" {
			content.MIMEType = "text/plain"
		}
		return nil
	}
	content.Blob = b
	if content.MIMEType == "" {
		content.MIMEType = "application/octet-stream"
	}
	return nil
}

func console(ctx context.Context, sb *smolvm.Sandbox) (text, kind string, err error) {
	var b bytes.Buffer
	err = sb.Console(ctx, &b, smolvm.ConsoleOptions{Tail: consoleLines})
	return valid(newest(b.Bytes())), "text/plain", err
}

func networkLog(ctx context.Context, sb *smolvm.Sandbox) (text, kind string, err error) {
	var b bytes.Buffer
	err = sb.NetworkLog(ctx, smolvm.NetworkLogOptions{}, func(e smolvm.NetworkEntry) error {
		line, err := json.Marshal(e)
		b.Write(append(line, '\n'))
		if b.Len() > 2*maxResource {
			kept := bytes.Clone(newest(b.Bytes()))
			b.Reset()
			b.Write(kept)
		}
		return err
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b.String(), "application/x-ndjson", err
}

// newest is the end of a log, of whole lines and at most maxResource bytes.
func newest(b []byte) []byte {
	if len(b) <= maxResource {
		return b
	}
	b = b[len(b)-maxResource:]
	return b[bytes.IndexByte(b, '\n')+1:]
}
