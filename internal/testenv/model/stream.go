package model

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// pieceBytes is how much of a text comes in one event: little, so that clients
// must put texts and arguments together.
const pieceBytes = 7

// stream writes server-sent events (HTML standard, section 9.2).
type stream struct {
	w http.ResponseWriter
	n int // events until now
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	return &stream{w: w}
}

// send writes an event; without a name it has data alone, as chat completions do.
func (s *stream) send(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of maps and strings
	}
	s.raw(name, data)
}

func (s *stream) raw(name string, data []byte) {
	if name != "" {
		fmt.Fprintf(s.w, "event: %s\n", name)
	}
	fmt.Fprintf(s.w, "data: %s\n\n", data)
	http.NewResponseController(s.w).Flush()
	s.n++
}

// pieces cuts a text, never within a character.
func pieces(text string) []string {
	var list []string
	start := 0
	for i := range text {
		if i-start >= pieceBytes {
			list = append(list, text[start:i])
			start = i
		}
	}
	if start < len(text) {
		list = append(list, text[start:])
	}
	return list
}

// texts reads content that is a string, null, or a list of parts of which those
// with a text count.
func texts(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return "", fmt.Errorf("content is neither text nor parts: %.100s", raw)
	}
	for i, p := range parts {
		if i > 0 && p.Text != "" && text != "" {
			text += "\n"
		}
		text += p.Text
	}
	return text, nil
}
