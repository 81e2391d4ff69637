package model

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// messages is Anthropic's messages API,
// https://docs.anthropic.com/en/api/messages.
type messages struct{}

type messagesRequest struct {
	Model     string `json:"model"`
	Stream    bool   `json:"stream"`
	MaxTokens int    `json:"max_tokens"`
	Messages  []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Tools []struct {
		Type        string          `json:"type"`
		Name        string          `json:"name"`
		InputSchema json.RawMessage `json:"input_schema"`
	} `json:"tools"`
}

type messagesBlock struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	ID        string          `json:"id"`
	ToolUseID string          `json:"tool_use_id"`
	Content   json.RawMessage `json:"content"`
}

func (messages) read(body []byte) (conversation, error) {
	var q messagesRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return conversation{}, err
	}
	c := conversation{model: q.Model, stream: q.Stream}
	if q.Model == "" || len(q.Messages) == 0 || q.MaxTokens <= 0 {
		return c, fmt.Errorf("model, messages and max_tokens are needed")
	}
	for _, t := range q.Tools {
		kind := t.Type
		if kind == "" || kind == "custom" { // a tool of the client's own, with a schema
			kind = "function"
		}
		c.tools = append(c.tools, tool{t.Name, kind, t.InputSchema})
	}
	for _, m := range q.Messages {
		if err := c.addMessage(m.Role, m.Content); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *conversation) addMessage(role string, content json.RawMessage) error {
	said := map[string]itemKind{"user": user, "system": user, "assistant": assistant}
	kind, ok := said[role]
	if !ok {
		return fmt.Errorf("role %q", role)
	}
	var text string
	if json.Unmarshal(content, &text) == nil {
		c.items = append(c.items, item{kind: kind, text: text})
		return nil
	}
	var blocks []messagesBlock
	if err := json.Unmarshal(content, &blocks); err != nil {
		return fmt.Errorf("content is neither text nor blocks: %w", err)
	}
	for _, b := range blocks {
		switch b.Type {
		case "text":
			c.items = append(c.items, item{kind: kind, text: b.Text})
		case "tool_use":
			c.items = append(c.items, item{kind: call, call: b.ID})
		case "tool_result":
			text, err := texts(b.Content)
			if err != nil {
				return err
			}
			c.items = append(c.items, item{kind: result, text: text, call: b.ToolUseID})
		}
	}
	return nil
}

func (messages) write(w http.ResponseWriter, c conversation, t turn) {
	if c.stream {
		streamMessages(w, c, t)
		return
	}
	content := []object{}
	if t.text != "" {
		content = append(content, object{"type": "text", "text": t.text})
	}
	for _, m := range t.calls {
		content = append(content, object{"type": "tool_use", "id": m.id, "name": m.tool.name, "input": json.RawMessage(m.args)})
	}
	a := messagesAnswer(c, t)
	a["content"], a["stop_reason"] = content, messagesStop(t)
	writeJSON(w, http.StatusOK, a)
}

func messagesAnswer(c conversation, t turn) object {
	return object{"id": "msg_" + t.id, "type": "message", "role": "assistant", "model": c.model, "content": []object{},
		"stop_reason": nil, "stop_sequence": nil, "usage": object{"input_tokens": 10, "output_tokens": 5}}
}

func messagesStop(t turn) string {
	if len(t.calls) > 0 {
		return "tool_use"
	}
	return "end_turn"
}

func streamMessages(w http.ResponseWriter, c conversation, t turn) {
	s := newStream(w)
	send := func(kind string, o object) {
		o["type"] = kind
		s.send(kind, o)
	}
	send("message_start", object{"message": messagesAnswer(c, t)})
	send("ping", object{})
	n := 0
	block := func(start object, kind, key, text string) {
		send("content_block_start", object{"index": n, "content_block": start})
		for _, p := range pieces(text) {
			send("content_block_delta", object{"index": n, "delta": object{"type": kind, key: p}})
		}
		send("content_block_stop", object{"index": n})
		n++
	}
	if t.text != "" {
		block(object{"type": "text", "text": ""}, "text_delta", "text", t.text)
	}
	for _, m := range t.calls {
		block(object{"type": "tool_use", "id": m.id, "name": m.tool.name, "input": object{}}, "input_json_delta", "partial_json", string(m.args))
	}
	send("message_delta", object{"delta": object{"stop_reason": messagesStop(t), "stop_sequence": nil}, "usage": object{"output_tokens": 5}})
	send("message_stop", object{})
}
