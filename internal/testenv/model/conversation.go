package model

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// conversation is what a request holds, whatever the API.
type conversation struct {
	model  string
	stream bool
	usage  bool // chat completions: the stream's end tells the usage
	tools  []tool
	items  []item
}

// tool is an offered tool. Kind is the word of the responses API: function,
// custom (input is free text), or the name of a tool that the client brings along.
type tool struct {
	name, kind string
	schema     json.RawMessage
}

// item is a part of the conversation.
type item struct {
	kind itemKind
	text string
	call string // id of the call, of calls and results
}

type itemKind int

const (
	user      itemKind = iota // and system, developer
	assistant                 // words of the model
	call
	result
)

// turn is what the model says next.
type turn struct {
	id    string // of the answer; tells the step
	text  string
	calls []made
}

// made is a call that was filled in.
type made struct {
	id   string
	tool tool
	args []byte // JSON, or the text of a custom tool
}

// epoch is when everything was made: answers must not differ between runs.
const epoch = 1767225600

// callID holds the step, so that the next request tells how far its conversation is.
var callID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^call_([0-9]+)_[0-9]+$`) })

func (c conversation) results() []string {
	var list []string
	for _, i := range c.items {
		if i.kind == result {
			list = append(list, i.text)
		}
	}
	return list
}

// step counts the turns that the model had: the last call tells how many there
// were up to it, and words after it are one each.
func (c conversation) step() int {
	n := 0
	for _, i := range c.items {
		switch {
		case i.kind == call:
			last, _ := strconv.Atoi(callID().FindStringSubmatch(i.call)[1])
			n = last + 1
		case i.kind == assistant && i.text != "":
			n++
		}
	}
	return n
}

// check says what is wrong about the order of calls and results.
func (c conversation) check() error {
	open := map[string]bool{}
	for _, i := range c.items {
		switch i.kind {
		case call:
			if !callID().MatchString(i.call) {
				return fmt.Errorf("call %q was not made by this model", i.call)
			}
			open[i.call] = true
		case result:
			if !open[i.call] {
				return fmt.Errorf("result of %q, which is no open call", i.call)
			}
			delete(open, i.call)
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%d calls have no result", len(open))
	}
	return c.checkTools()
}

// toolName is what the APIs take as a function's name.
var toolName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`) })

func (c conversation) checkTools() error {
	seen := map[string]bool{}
	for _, t := range c.tools {
		if seen[t.name] {
			return fmt.Errorf("tool %q is offered twice", t.name)
		}
		seen[t.name] = true
		if t.kind != "function" {
			continue
		}
		if !toolName().MatchString(t.name) {
			return fmt.Errorf("%q is no name of a tool", t.name)
		}
		var s struct {
			Type       string                     `json:"type"`
			Properties map[string]json.RawMessage `json:"properties"`
		}
		if err := json.Unmarshal(t.schema, &s); err != nil || s.Type != "object" {
			return fmt.Errorf("tool %q: its schema %s is not an object's", t.name, t.schema)
		}
	}
	return nil
}

// next finds the step of a conversation and fills it in.
func (m *Model) next(c conversation) (turn, error) {
	if err := c.check(); err != nil {
		return turn{}, err
	}
	n := c.step()
	if n >= len(m.steps) {
		return turn{}, fmt.Errorf("the script has %d steps, and this asks for one more", len(m.steps))
	}
	step, results := m.steps[n], c.results()
	t := turn{id: fmt.Sprintf("turn_%d", n), text: step.Text}
	if len(step.Calls) > 0 && len(c.tools) == 0 && m.Aside != "" {
		t.text = m.Aside
		return t, nil
	}
	if len(results) > 0 {
		t.text = strings.ReplaceAll(t.text, Result, results[len(results)-1])
	}
	for i, call := range step.Calls {
		made, err := c.fill(call, results)
		if err != nil {
			return turn{}, fmt.Errorf("step %d: %w", n, err)
		}
		made.id = fmt.Sprintf("call_%d_%d", n, i)
		t.calls = append(t.calls, made)
	}
	return t, nil
}

func (c conversation) fill(call Call, results []string) (made, error) {
	t, err := c.find(call.Tool)
	if err != nil {
		return made{}, err
	}
	args := call.Args
	if call.From != nil {
		args = call.From(results)
	}
	if text, ok := args.(string); ok && t.kind == "custom" {
		return made{tool: t, args: []byte(text)}, nil
	}
	if args == nil {
		args = object{}
	}
	b, err := json.Marshal(args)
	if err != nil {
		return made{}, err
	}
	return made{tool: t, args: b}, fits(t, b)
}

// find finds the tool of a name, or the only one whose name ends so.
func (c conversation) find(name string) (tool, error) {
	var found, names []string
	for _, t := range c.tools {
		names = append(names, t.name)
		if t.name == name {
			return t, nil
		}
		if strings.HasSuffix(t.name, "_"+name) || strings.HasSuffix(t.name, "-"+name) {
			found = append(found, t.name)
		}
	}
	if len(found) != 1 {
		return tool{}, fmt.Errorf("tool %q: %d offered tools end so: %s", name, len(found), strings.Join(names, " "))
	}
	return c.tools[slices.Index(names, found[0])], nil
}

// fits says whether arguments have the names that the tool's schema asks for. It
// finds faults of a script; real validation is the tool's.
func fits(t tool, args []byte) error {
	if t.kind != "function" {
		return nil
	}
	var s struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(t.schema, &s); err != nil {
		return err
	}
	if err := json.Unmarshal(args, &given); err != nil {
		return fmt.Errorf("arguments of %q are no object: %w", t.name, err)
	}
	for _, name := range s.Required {
		// What may be null counts as required where a schema is strict.
		if _, ok := given[name]; !ok && !strings.Contains(string(s.Properties[name]), `"null"`) {
			return fmt.Errorf("tool %q needs %q, which the script does not give", t.name, name)
		}
	}
	for name := range given {
		if _, ok := s.Properties[name]; !ok {
			return fmt.Errorf("tool %q takes no %q: %s", t.name, name, t.schema)
		}
	}
	return nil
}
