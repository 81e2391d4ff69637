package sniff

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const maxHeaders = 200

// Head is the head of an HTTP/1 request.
type Head struct {
	Method string
	Path   string // with query, as on the wire; "*" of OPTIONS; empty for CONNECT
	Host   string // of the Host header, or of the target where that has one; perhaps with a port
	Scheme string // of an absolute target, lower case; otherwise empty
	Minor  int    // of the version: 0 or 1
	Size   int    // bytes up to the end of the empty line
}

// ReadHead reads the head of a request. It is as strict as RFC 9112 lets a
// server be. ErrShort asks for more bytes.
func ReadHead(b []byte) (Head, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	bounded := b
	if end >= 0 {
		bounded = b[:end+2]
	}
	if len(bounded) > MaxHead {
		return Head{}, errors.New("HTTP request: its head is too large")
	}
	// What is wrong already needs no end.
	if err := checkLines(bounded, end < 0); err != nil {
		return Head{}, fmt.Errorf("HTTP request: %w", err)
	}
	if end < 0 {
		return Head{}, ErrShort
	}
	lines := strings.Split(string(b[:end]), "\r\n")
	h, err := requestLine(lines[0])
	if err == nil {
		err = h.headers(lines[1:])
	}
	if err != nil {
		return Head{}, fmt.Errorf("HTTP request: %w", err)
	}
	h.Size = end + 4
	return h, nil
}

// checkLines refuses bytes at which readers part: line ends that are not both
// bytes, and zeros.
func checkLines(b []byte, open bool) error {
	for i, c := range b {
		switch {
		case c == 0:
			return errors.New("a zero byte in its head")
		case c == '\n' && (i == 0 || b[i-1] != '\r'):
			return errors.New("a line that ends without carriage return")
		case c == '\r' && i+1 == len(b) && open: // its line feed may follow
		case c == '\r' && (i+1 == len(b) || b[i+1] != '\n'):
			return errors.New("a carriage return within a line")
		}
	}
	return nil
}

func requestLine(line string) (Head, error) {
	var h Head
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !token(parts[0]) || len(parts[0]) > maxMethod {
		return h, fmt.Errorf("its first line %.60q is none of HTTP/1", line)
	}
	switch parts[2] {
	case "HTTP/1.1":
		h.Minor = 1
	case "HTTP/1.0":
	default:
		return h, fmt.Errorf("version %.20q", parts[2])
	}
	h.Method = parts[0]
	return h, h.target(parts[1])
}

// target takes the request target apart (RFC 9112 section 3.2).
func (h *Head) target(s string) error {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' {
			return fmt.Errorf("byte %q in its target", s[i])
		}
	}
	scheme, rest, absolute := strings.Cut(s, "://")
	switch {
	case h.Method == "CONNECT":
		h.Host = s
	case strings.HasPrefix(s, "/"):
		h.Path = s
	case s == "*" && h.Method == "OPTIONS":
		h.Path = s
	case absolute && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")):
		h.Scheme = strings.ToLower(scheme)
		at := strings.IndexAny(rest, "/?")
		if at < 0 {
			at = len(rest)
		}
		h.Host, h.Path = rest[:at], rest[at:]
		if !strings.HasPrefix(h.Path, "/") {
			h.Path = "/" + h.Path
		}
	default:
		return fmt.Errorf("target %.60q", s)
	}
	if h.Host == "" && h.Path == "" || h.Path == "" && h.Method != "CONNECT" || h.Scheme != "" && h.Host == "" {
		return errors.New("a target without host")
	}
	return checkHost(h.Host)
}

func checkHost(host string) error {
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		name, port = host[:i], host[i+1:]
	}
	if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil {
		return fmt.Errorf("host %.60q", host)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`/\@?#,;"<>%`, c) >= 0 {
			return fmt.Errorf("host %.60q", host)
		}
	}
	return nil
}

func token(s string) bool {
	for i := range len(s) {
		if !tokenChar(s[i]) {
			return false
		}
	}
	return s != ""
}

// headers takes the Host header, of which there is exactly one in HTTP/1.1
// (RFC 9112 section 3.2), and refuses what smuggles requests past a reader.
func (h *Head) headers(lines []string) error {
	if len(lines) > maxHeaders {
		return errors.New("too many header lines")
	}
	count := map[string]int{}
	host := ""
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		if !ok || !token(name) {
			return fmt.Errorf("header line %.60q", l)
		}
		name = strings.ToLower(name)
		count[name]++
		if name == "host" {
			host = strings.Trim(value, " \t")
		}
	}
	switch {
	case count["host"] > 1:
		return errors.New("more than one Host header")
	case count["host"] == 0 && h.Minor > 0:
		return errors.New("no Host header")
	case count["content-length"] > 1, count["transfer-encoding"] > 1,
		count["content-length"] > 0 && count["transfer-encoding"] > 0:
		return errors.New("its length is said twice")
	}
	if err := checkHost(host); err != nil {
		return err
	}
	// The target's host counts (RFC 9112 section 3.2.2), but some servers take
	// the header's, so both must agree.
	if h.Host != "" && count["host"] > 0 && !sameHost(h.Host, host, h.Scheme) {
		return fmt.Errorf("target for %.60q, Host header for %.60q", h.Host, host)
	}
	if h.Host == "" {
		h.Host = host
	}
	return nil
}

// sameHost compares hosts, with the port that a scheme implies.
func sameHost(a, b, scheme string) bool {
	implied := map[string]string{"http": ":80", "https": ":443"}[scheme]
	if implied != "" {
		a, b = strings.TrimSuffix(a, implied), strings.TrimSuffix(b, implied)
	}
	return strings.EqualFold(a, b)
}
