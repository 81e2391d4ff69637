package egress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/smolvm/smolvm/api"
)

// maxTTL bounds a ttl: more is a slip.
const maxTTL = 10 * 365 * 24 * time.Hour

// Parse reads a policy in YAML or JSON. A ttl counts from now. What is not
// understood is an error of class invalid that says the line.
func Parse(text []byte, now time.Time) (*Policy, error) {
	p, line, err := parse(text, now)
	switch {
	case err == nil:
		return p, nil
	case line > 0:
		return nil, api.Errorf(api.Invalid, "network policy: line %d: %w", line, err)
	}
	return nil, api.Errorf(api.Invalid, "network policy: %w", err)
}

func parse(text []byte, now time.Time) (*Policy, int, error) {
	if len(text) > MaxBytes {
		return nil, 0, fmt.Errorf("it has %d bytes: at most %d", len(text), MaxBytes)
	}
	root, line, err := nodes(text)
	if err != nil {
		return nil, line, err
	}
	if s := settingsNode(root); s != nil {
		return fromSettings(s)
	}
	r := reader{now: now, lines: map[string]int{}}
	document := r.document(root)
	if r.err != nil {
		return nil, r.line, r.err
	}
	p, bad := compile(document)
	if bad != nil {
		return nil, r.lineOf(bad), bad
	}
	return p, 0, nil
}

// settingsNode returns the settings of the Python original where a file holds
// those instead of a policy, by themselves or under internet_settings; else nil.
func settingsNode(root *yaml.Node) *yaml.Node {
	for i := 0; i+1 < len(root.Content) && root.Kind == yaml.MappingNode; i += 2 {
		switch root.Content[i].Value {
		case "allowed_domains", "allowed_http_methods":
			return root
		case "internet_settings":
			if len(root.Content) == 2 {
				return root.Content[1]
			}
		}
	}
	return nil
}

func fromSettings(n *yaml.Node) (*Policy, int, error) {
	r := reader{lines: map[string]int{}}
	var s api.InternetSettings
	r.fields(n, "internet_settings", []string{"allowed_domains", "allowed_http_methods"}, func(key string, v *yaml.Node) {
		list := []string{}
		if err := v.Decode(&list); err != nil {
			r.fail(v, "%s is no list of texts", key)
		}
		if key == "allowed_domains" {
			s.AllowedDomains = list
		} else {
			s.AllowedHTTPMethods = list
		}
	})
	if r.err != nil {
		return nil, r.line, r.err
	}
	p, _, err := FromSettings(s)
	if e := (*api.Error)(nil); errors.As(err, &e) {
		err = errors.New(e.Message) // Parse says the class
	}
	return p, 0, err
}

// nodes reads text as what it is: JSON, if it begins as JSON does and is valid,
// otherwise YAML, which is the same but for escapes in strings.
func nodes(text []byte) (*yaml.Node, int, error) {
	if json.Valid(text) {
		return jsonNodes(text)
	}
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, 0, errors.New("it is empty; to deny everything write default: deny")
	} else if err != nil {
		return nil, 0, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("one document is wanted, and there is more")
	}
	return doc.Content[0], 0, nil
}

// reader takes a document out of YAML nodes. It keeps the first error and the
// lines on which things stand.
type reader struct {
	now   time.Time
	lines map[string]int // by rule, field and index
	line  int
	err   error
}

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	if r.err == nil {
		r.line, r.err = n.Line, fmt.Errorf(format, args...)
	}
}

func at(rule int, field string, index int) string { return fmt.Sprintf("%d/%s/%d", rule, field, index) }

func (r *reader) lineOf(e *fieldError) int {
	for _, k := range []string{at(e.rule, e.field, e.index), at(e.rule, e.field, -1), at(e.rule, "", -1)} {
		if l := r.lines[k]; l > 0 {
			return l
		}
	}
	return 0
}

// fields calls f with each key and value of a mapping.
func (r *reader) fields(n *yaml.Node, what string, known []string, f func(key string, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s is no mapping of %s to values", what, strings.Join(known, ", "))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || !slices.Contains(known, k.Value):
			r.fail(k, "%s has no field %q; there are %s", what, k.Value, strings.Join(known, ", "))
		case seen[k.Value]:
			r.fail(k, "%s has %s twice", what, k.Value)
		default:
			seen[k.Value] = true
			f(k.Value, v)
		}
	}
}

func (r *reader) document(n *yaml.Node) Document {
	var d Document
	r.fields(n, "a policy", []string{"version", "default", "ech", "rules"}, func(key string, v *yaml.Node) {
		r.lines[at(-1, key, -1)] = v.Line
		switch key {
		case "version":
			d.Version = r.number(v)
		case "default":
			d.Default = Action(r.scalar(v))
		case "ech":
			d.ECH = r.scalar(v)
		case "rules":
			d.Rules = r.rules(v)
		}
	})
	return d
}

func (r *reader) rules(n *yaml.Node) []Rule {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "rules is no list; begin each rule with a dash")
		return nil
	}
	if len(n.Content) > MaxRules {
		r.fail(n, "%d rules: a policy has at most %d", len(n.Content), MaxRules)
		return nil
	}
	list := make([]Rule, len(n.Content))
	for i, v := range n.Content {
		r.lines[at(i, "", -1)] = v.Line
		list[i] = r.rule(i, v)
	}
	return list
}

var ruleFields = []string{
	"action", "domains", "groups", "cidrs", "ports", "protocols", "methods", "paths", "ttl", "expires", "id", "note",
}

func (r *reader) rule(i int, n *yaml.Node) Rule {
	var u Rule
	lists := map[string]*[]string{
		"domains": &u.Domains, "groups": &u.Groups, "cidrs": &u.CIDRs, "ports": &u.Ports,
		"protocols": &u.Protocols, "methods": &u.Methods, "paths": &u.Paths,
	}
	r.fields(n, fmt.Sprintf("rule %d", i+1), ruleFields, func(key string, v *yaml.Node) {
		r.lines[at(i, key, -1)] = v.Line
		switch key {
		case "action":
			u.Action = Action(r.scalar(v))
		case "id":
			u.ID = r.scalar(v)
		case "note":
			u.Note = r.scalar(v)
		case "ttl", "expires":
			if !u.Expires.IsZero() {
				r.fail(v, "rule %d has both ttl and expires", i+1)
			}
			u.Expires = r.expiry(key, v)
		default:
			*lists[key] = r.list(i, key, v)
		}
	})
	return u
}

// list reads a list, or one entry in place of one. An empty list is refused: it
// would mean any to us, and perhaps none to who wrote it.
func (r *reader) list(rule int, key string, n *yaml.Node) []string {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return []string{r.scalar(n)}
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		r.fail(n, "%s is empty or no list: leave it out where it does not matter", key)
		return nil
	}
	if len(n.Content) > maxPerList {
		r.fail(n, "%s has %d entries: at most %d", key, len(n.Content), maxPerList)
		return nil
	}
	list := make([]string, len(n.Content))
	for i, v := range n.Content {
		r.lines[at(rule, key, i)] = v.Line
		list[i] = r.scalar(v)
	}
	return list
}

// scalar reads plain text as it stands, so that nothing depends on what YAML
// takes for a number or a truth.
func (r *reader) scalar(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.fail(n, "anchors and aliases are not read: write it out")
	case n.Kind != yaml.ScalarNode:
		r.fail(n, "a single value is wanted here")
	case n.Tag == "!!null":
		r.fail(n, "a value is missing here")
	case !slices.Contains([]string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp"}, n.Tag):
		r.fail(n, "tag %s is not read", n.Tag)
	}
	return n.Value
}

func (r *reader) number(n *yaml.Node) int {
	v, err := strconv.Atoi(r.scalar(n))
	if err != nil {
		r.fail(n, "%q is no number", n.Value)
	}
	return v
}

func (r *reader) expiry(key string, n *yaml.Node) time.Time {
	s := r.scalar(n)
	if key == "ttl" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > maxTTL {
			r.fail(n, "ttl %q: write a duration such as 90s, 10m or 24h", s)
		}
		return r.now.Add(d)
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		r.fail(n, "expires %q: write a time such as 2026-12-31T23:59:59Z", s)
	}
	return t
}

// YAML returns the policy as a file that Parse reads to the same policy.
func (p *Policy) YAML() []byte {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(p.Document()); err != nil {
		panic(err) // strings, numbers and times always encode
	}
	return b.Bytes()
}
