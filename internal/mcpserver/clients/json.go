package clients

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/smolvm/smolvm/api"
)

const (
	indent   = "  "
	maxDepth = 1000 // of a file that a program reads without recursion running away
)

func replace(b []byte, from, to string) []byte { return bytes.ReplaceAll(b, []byte(from), []byte(to)) }

// mergeJSON sets a value in JSON that may have comments and commas before closing
// brackets, as VS Code writes it. Objects on the way that are missing are made.
func mergeJSON(old []byte, path []string, value any) ([]byte, error) {
	if len(bytes.TrimSpace(old)) == 0 {
		old = []byte("{}\n")
	}
	s := &scanner{text: old}
	s.space()
	at := s.at
	if err := s.value(0); err != nil {
		return nil, err
	}
	if s.space(); s.at < len(s.text) {
		return nil, s.wrong("something stands behind the end")
	}
	return set(old, at, path, value, 0)
}

// set sets a value in the object that begins at a place.
func set(text []byte, at int, path []string, value any, depth int) ([]byte, error) {
	s := &scanner{text: text, at: at}
	o, err := s.object(path[0])
	if err != nil {
		return nil, err
	}
	if o.found && len(path) > 1 {
		return set(text, o.begin, path[1:], value, depth+1)
	}
	for i := len(path) - 1; i > 0; i-- {
		value = map[string]any{path[i]: value}
	}
	prefix := strings.Repeat(indent, depth+1)
	b, err := encode(value, prefix)
	if err != nil {
		return nil, err
	}
	if o.found {
		return splice(text, o.begin, o.end, b), nil
	}
	key, err := json.Marshal(path[0])
	if err != nil {
		return nil, err
	}
	// Behind the last member, else behind the opening bracket.
	line := "\n" + prefix + string(key) + ": " + string(b)
	if o.last < 0 {
		tail := ""
		if o.empty {
			tail = "\n" + strings.Repeat(indent, depth)
		}
		return splice(text, at+1, at+1+o.blank, []byte(line+tail)), nil
	}
	// Behind what stands on the line of the last member.
	if o.comma {
		return splice(text, o.tail, o.tail, []byte(line+",")), nil
	}
	text = splice(text, o.tail, o.tail, []byte(line))
	return splice(text, o.last, o.last, []byte(",")), nil
}

func splice(text []byte, from, to int, b []byte) []byte {
	out := make([]byte, 0, len(text)+len(b))
	out = append(out, text[:from]...)
	out = append(out, b...)
	return append(out, text[to:]...)
}

// scanner reads JSON with comments.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) wrong(what string) error {
	line := 1 + bytes.Count(s.text[:min(s.at, len(s.text))], []byte("\n"))
	return api.Errorf(api.Invalid, "it is no JSON: %s in line %d", what, line)
}

func (s *scanner) peek() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

// space skips white space and comments.
func (s *scanner) space() {
	for s.at < len(s.text) {
		rest := s.text[s.at:]
		switch {
		case strings.IndexByte(" \t\r\n", rest[0]) >= 0:
			s.at++
		case bytes.HasPrefix(rest, []byte("\ufeff")):
			s.at += len("\ufeff")
		case bytes.HasPrefix(rest, []byte("//")):
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			s.at += end
		case bytes.HasPrefix(rest, []byte("/*")):
			end := bytes.Index(rest[2:], []byte("*/"))
			if end < 0 {
				return
			}
			s.at += end + 4
		default:
			return
		}
	}
}

// lineEnd returns where blanks and comments that follow a place on its line end.
func (s *scanner) lineEnd(at int) int {
	end := at
	for end < len(s.text) {
		rest := s.text[end:]
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		comment, _, closed := bytes.Cut(line[min(2, len(line)):], []byte("*/"))
		switch {
		case rest[0] == ' ' || rest[0] == '\t':
			end++
		case bytes.HasPrefix(rest, []byte("//")):
			return end + len(bytes.TrimRight(line, "\r"))
		case bytes.HasPrefix(rest, []byte("/*")) && closed:
			end += 2 + len(comment) + 2
		default:
			return end
		}
	}
	return end
}

// value skips a value, strictly enough that nothing is put into what is no JSON.
func (s *scanner) value(depth int) error {
	if depth > maxDepth {
		return s.wrong("it is nested too deeply")
	}
	switch s.peek() {
	case '{':
		_, err := s.members("", depth)
		return err
	case '[':
		return s.list(depth)
	case '"':
		_, err := s.word()
		return err
	}
	begin := s.at
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n,]}/", s.text[s.at]) < 0 {
		s.at++
	}
	if !json.Valid(s.text[begin:s.at]) {
		return s.wrong("there is no value")
	}
	return nil
}

func (s *scanner) list(depth int) error {
	s.at++
	for {
		if s.space(); s.peek() == ']' {
			s.at++
			return nil
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if s.space(); s.peek() == ',' {
			s.at++
		} else if s.peek() != ']' {
			return s.wrong("a list does not go on")
		}
	}
}

// word reads a string.
func (s *scanner) word() (string, error) {
	begin := s.at
	for s.at++; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			var w string
			if err := json.Unmarshal(s.text[begin:s.at], &w); err != nil {
				return "", s.wrong("a string is broken")
			}
			return w, nil
		}
	}
	return "", s.wrong("a string does not end")
}

// object is what is known of an object and one of its members.
type object struct {
	found      bool
	begin, end int // of the member's value

	last  int  // where the last member ends; -1: there is none
	comma bool // a comma stands behind it
	tail  int  // behind what else stands on its line
	blank int  // white space behind the opening bracket, where there is nothing else
	empty bool
}

func (s *scanner) object(key string) (object, error) {
	if s.peek() != '{' {
		return object{}, s.wrong("there is no object where servers are listed")
	}
	return s.members(key, 0)
}

// members skips an object and finds a member.
func (s *scanner) members(key string, depth int) (object, error) {
	o := object{last: -1}
	open := s.at
	s.at++
	for {
		s.space()
		if s.peek() == '}' {
			if inside := s.text[open+1 : s.at]; o.last < 0 && len(bytes.TrimSpace(inside)) == 0 {
				o.empty, o.blank = true, len(inside)
			}
			s.at++
			return o, nil
		}
		if s.peek() != '"' {
			return o, s.wrong("an object does not go on")
		}
		name, err := s.word()
		if err != nil {
			return o, err
		}
		if s.space(); s.peek() != ':' {
			return o, s.wrong("a name has no value")
		}
		s.at++
		s.space()
		begin := s.at
		if err := s.value(depth + 1); err != nil {
			return o, err
		}
		if name == key {
			o.found, o.begin, o.end = true, begin, s.at
		}
		o.last, o.comma, o.tail = s.at, false, s.lineEnd(s.at)
		if s.space(); s.peek() == ',' {
			s.at++
			o.comma, o.tail = true, s.lineEnd(s.at)
		} else if s.peek() != '}' {
			return o, s.wrong("an object does not go on")
		}
	}
}
