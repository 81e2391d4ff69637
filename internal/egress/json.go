package egress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxDepth is more than a policy has: a mapping, rules, a rule, a list, an entry.
const maxDepth = 8

// jsonNodes reads valid JSON into the nodes that YAML is read into, with lines.
func jsonNodes(text []byte) (*yaml.Node, int, error) {
	r := jsonReader{text: text, d: json.NewDecoder(bytes.NewReader(text))}
	r.d.UseNumber()
	n, err := r.value(0)
	return n, r.line(), err
}

type jsonReader struct {
	text []byte
	d    *json.Decoder
}

func (r *jsonReader) line() int {
	return 1 + bytes.Count(r.text[:r.d.InputOffset()], []byte{'\n'})
}

func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deep")
	}
	t, err := r.d.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Line: r.line(), Value: fmt.Sprint(t)}
	switch t {
	case nil:
		n.Tag, n.Value = "!!null", ""
	case json.Delim('{'):
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
	case json.Delim('['):
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
	}
	if n.Kind == yaml.ScalarNode {
		return n, nil
	}
	for r.d.More() { // keys come as values do, one after the other
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, v)
	}
	_, err = r.d.Token() // the closing one
	return n, err
}
