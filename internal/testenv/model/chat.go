package model

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// chat is OpenAI's chat completions API,
// https://platform.openai.com/docs/api-reference/chat.
type chat struct{}

type chatRequest struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Messages []chatMessage `json:"messages"`
	Tools    []struct {
		Type     string `json:"type"`
		Function struct {
			Name       string          `json:"name"`
			Parameters json.RawMessage `json:"parameters"`
		} `json:"function"`
	} `json:"tools"`
}

type chatMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	ToolCallID string          `json:"tool_call_id"`
	ToolCalls  []struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

func (chat) read(body []byte) (conversation, error) {
	var q chatRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return conversation{}, err
	}
	c := conversation{model: q.Model, stream: q.Stream, usage: q.StreamOptions.IncludeUsage}
	if q.Model == "" || len(q.Messages) == 0 {
		return c, fmt.Errorf("model and messages are needed")
	}
	for _, t := range q.Tools {
		if t.Type != "function" {
			return c, fmt.Errorf("tool of type %q", t.Type)
		}
		schema := t.Function.Parameters
		if len(schema) == 0 { // left out by those that take no arguments
			schema = json.RawMessage(`{"type":"object"}`)
		}
		c.tools = append(c.tools, tool{t.Function.Name, t.Type, schema})
	}
	for _, m := range q.Messages {
		if err := c.addChat(m); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *conversation) addChat(m chatMessage) error {
	text, err := texts(m.Content)
	if err != nil {
		return err
	}
	switch m.Role {
	case "system", "developer", "user":
		c.items = append(c.items, item{kind: user, text: text})
	case "tool":
		c.items = append(c.items, item{kind: result, text: text, call: m.ToolCallID})
	case "assistant":
		c.items = append(c.items, item{kind: assistant, text: text})
		for _, t := range m.ToolCalls {
			if t.Type != "function" || !json.Valid([]byte(t.Function.Arguments)) {
				return fmt.Errorf("tool call %+v is ill-formed", t)
			}
			c.items = append(c.items, item{kind: call, call: t.ID})
		}
	default:
		return fmt.Errorf("role %q", m.Role)
	}
	return nil
}

func (chat) write(w http.ResponseWriter, c conversation, t turn) {
	if c.stream {
		streamChat(w, c, t)
		return
	}
	message := object{"role": "assistant", "content": nil, "refusal": nil}
	if t.text != "" {
		message["content"] = t.text
	}
	var calls []object
	for _, m := range t.calls {
		calls = append(calls, object{"id": m.id, "type": "function", "function": object{"name": m.tool.name, "arguments": string(m.args)}})
	}
	if calls != nil {
		message["tool_calls"] = calls
	}
	a := chatAnswer(c, t, "chat.completion")
	a["choices"] = []object{{"index": 0, "message": message, "logprobs": nil, "finish_reason": chatFinish(t)}}
	a["usage"] = chatUsage()
	writeJSON(w, http.StatusOK, a)
}

func chatAnswer(c conversation, t turn, kind string) object {
	return object{"id": "chatcmpl-" + t.id, "object": kind, "created": epoch, "model": c.model}
}

func chatFinish(t turn) string {
	if len(t.calls) > 0 {
		return "tool_calls"
	}
	return "stop"
}

func chatUsage() object {
	return object{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
}

func streamChat(w http.ResponseWriter, c conversation, t turn) {
	s := newStream(w)
	delta := func(d object, finish any) {
		a := chatAnswer(c, t, "chat.completion.chunk")
		a["choices"] = []object{{"index": 0, "delta": d, "logprobs": nil, "finish_reason": finish}}
		s.send("", a)
	}
	delta(object{"role": "assistant", "content": ""}, nil)
	for _, p := range pieces(t.text) {
		delta(object{"content": p}, nil)
	}
	for i, m := range t.calls {
		delta(object{"tool_calls": []object{{"index": i, "id": m.id, "type": "function", "function": object{"name": m.tool.name, "arguments": ""}}}}, nil)
		for _, p := range pieces(string(m.args)) {
			delta(object{"tool_calls": []object{{"index": i, "function": object{"arguments": p}}}}, nil)
		}
	}
	delta(object{}, chatFinish(t))
	if c.usage {
		a := chatAnswer(c, t, "chat.completion.chunk")
		a["choices"], a["usage"] = []object{}, chatUsage()
		s.send("", a)
	}
	s.raw("", []byte("[DONE]"))
}
