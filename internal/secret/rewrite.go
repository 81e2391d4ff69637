package secret

import (
	"bytes"
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/api"
)

const (
	// MaxHeld bounds a body that is held to tell its new length, in bytes.
	MaxHeld = 1 << 20
	// maxPut bounds how often values are put into the head, and into a body that is
	// held: a guest could have a megabyte of placeholders become a hundred.
	maxPut = 100
)

// snapshot is the state of a vault at a moment.
type snapshot struct {
	list []*held
	by   map[string]*held // by placeholder

	budget *budget
}

func newSnapshot(list []*held, b *budget) *snapshot {
	s := &snapshot{list, map[string]*held{}, b}
	for _, h := range list {
		s.by[h.placeholder] = h
	}
	return s
}

func (s *snapshot) find(b []byte) (names []string) {
	if len(s.list) == 0 {
		return nil
	}
	b = bytes.ToLower(b)
	if !bytes.Contains(b, []byte(Prefix)) {
		return nil
	}
	for _, h := range s.list {
		if bytes.Contains(b, []byte(h.placeholder)) {
			names = append(names, h.Name)
		}
	}
	slices.Sort(names)
	return names
}

// pass is one request on its way through a vault.
type pass struct {
	*snapshot
	r    *Request
	tell func(Finding)
	told map[Finding]bool
	puts int
}

func (s *snapshot) rewrite(r *Request, tell func(Finding)) error {
	if len(s.list) == 0 {
		return nil
	}
	p := &pass{snapshot: s, r: r, tell: tell, told: map[Finding]bool{}}
	if err := p.head(); err != nil {
		return err
	}
	return p.body()
}

// head puts values into headers and query.
func (p *pass) head() error {
	for _, name := range slices.Sorted(maps.Keys(p.r.Header)) {
		for i, text := range p.r.Header[name] {
			next, err := p.header(name, text)
			if err != nil {
				return err
			}
			if next != text {
				// A slice of its own: others may keep what the guest has sent.
				p.r.Header[name] = slices.Clone(p.r.Header[name])
				p.r.Header[name][i] = next
			}
		}
	}
	path, query, found := strings.Cut(p.r.Path, "?")
	p.scan("path", path, "values are not put into the path before its query")
	if !found {
		return nil
	}
	query, err := p.replace("query", query, percent)
	p.r.Path = path + "?" + query
	return err
}

// header puts values into one header.
func (p *pass) header(name, text string) (string, error) {
	where := "header " + name
	scheme, rest, _ := strings.Cut(text, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return p.replace(where, text, asIs)
	}
	rest = strings.TrimSpace(rest)
	raw, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(rest)
	}
	if err != nil {
		return p.replace(where, text, asIs)
	}
	next, err := p.replace(where, string(raw), asIs)
	if err != nil || next == string(raw) {
		return text, err
	}
	return scheme + " " + base64.StdEncoding.EncodeToString([]byte(next)), nil
}

// encoding makes a value fit where it is put.
type encoding func(value string) string

func asIs(value string) string { return value }

func percent(value string) string { return strings.ReplaceAll(url.QueryEscape(value), "+", "%20") }

// replace puts values into a text that is held whole.
func (p *pass) replace(where, text string, enc encoding) (string, error) {
	var out strings.Builder
	for {
		i := strings.Index(text, Prefix)
		if i < 0 || len(text) < i+placeholderLen {
			out.WriteString(text)
			return out.String(), nil
		}
		out.WriteString(text[:i])
		text = text[i:]
		value, put, err := p.value(where, text[:placeholderLen], enc)
		if err != nil {
			return "", err
		}
		if !put {
			out.WriteString(Prefix)
			text = text[len(Prefix):]
			continue
		}
		if p.puts++; p.puts > maxPut {
			return "", api.Errorf(api.Exhausted, "put secrets into a request to %s: they stand in it more than %d times", p.r.Host, maxPut)
		}
		out.WriteString(value)
		text = text[placeholderLen:]
	}
}

// value returns what stands for a placeholder in this request, if anything does.
func (p *pass) value(where, placeholder string, enc encoding) (value string, put bool, err error) {
	h := p.by[placeholder]
	if h == nil {
		return "", false, nil
	}
	if why := p.forbids(h); why != "" {
		p.report(Finding{Secret: h.Name, Where: where, Why: why})
		return "", false, nil
	}
	if h.Value == "" {
		return "", false, api.Errorf(api.Unavailable, "put secret %s into a request to %s: its value is not here", h.Name, p.r.Host).
			WithRecovery("Give it again on the host: smolvm secret set SANDBOX %s", h.Name)
	}
	p.report(Finding{Secret: h.Name, Where: where, Put: true})
	return enc(h.Value), true, nil
}

// forbids says why a secret does not go into this request; empty: it does.
func (p *pass) forbids(h *held) string {
	if !h.meant(p.r.Host) {
		return "it is not meant for " + p.r.Host
	}
	if !p.r.Secure {
		return "the request is not encrypted"
	}
	return ""
}

// scan reports placeholders in a text that is left as it is.
func (p *pass) scan(where, text, why string) {
	for _, h := range p.list {
		if !strings.Contains(text, h.placeholder) {
			continue
		}
		if w := p.forbids(h); w != "" {
			why = w
		}
		p.report(Finding{Secret: h.Name, Where: where, Why: why})
	}
}

// report tells a finding once.
func (p *pass) report(f Finding) {
	if !p.told[f] {
		p.told[f] = true
		p.tell(f)
	}
}
