package model

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// responses is OpenAI's responses API,
// https://platform.openai.com/docs/api-reference/responses.
type responses struct{}

type responsesRequest struct {
	Model    string          `json:"model"`
	Stream   bool            `json:"stream"`
	Input    json.RawMessage `json:"input"`
	Previous string          `json:"previous_response_id"`
	Tools    []struct {
		Type       string          `json:"type"`
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"tools"`
}

type responsesItem struct {
	Type    string          `json:"type"`
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
	CallID  string          `json:"call_id"`
	Output  json.RawMessage `json:"output"`
}

func (responses) read(body []byte) (conversation, error) {
	var q responsesRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return conversation{}, err
	}
	c := conversation{model: q.Model, stream: q.Stream}
	switch {
	case q.Model == "" || len(q.Input) == 0:
		return c, fmt.Errorf("model and input are needed")
	case q.Previous != "":
		return c, fmt.Errorf("nothing is stored here: send the whole input, without previous_response_id")
	}
	for _, t := range q.Tools {
		name := t.Name
		if name == "" { // a tool that the API itself defines: shell, apply_patch, web_search
			name = t.Type
		}
		c.tools = append(c.tools, tool{name, t.Type, t.Parameters})
	}
	var text string
	if json.Unmarshal(q.Input, &text) == nil {
		c.items = append(c.items, item{kind: user, text: text})
		return c, nil
	}
	var items []responsesItem
	if err := json.Unmarshal(q.Input, &items); err != nil {
		return c, fmt.Errorf("input is neither text nor items: %w", err)
	}
	for _, i := range items {
		if err := c.addItem(i); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *conversation) addItem(i responsesItem) error {
	switch {
	case strings.HasSuffix(i.Type, "_call_output"):
		text, err := texts(i.Output)
		if i.Type == "shell_call_output" {
			text, err = shellOutput(i.Output)
		}
		if err != nil {
			return err
		}
		c.items = append(c.items, item{kind: result, text: text, call: i.CallID})
	case strings.HasSuffix(i.Type, "_call"):
		c.items = append(c.items, item{kind: call, call: i.CallID})
	case i.Type == "message" || i.Type == "":
		text, err := texts(i.Content)
		if err != nil {
			return err
		}
		kind := user
		if i.Role == "assistant" {
			kind = assistant
		} else if i.Role == "" {
			return fmt.Errorf("a message without role")
		}
		c.items = append(c.items, item{kind: kind, text: text})
	}
	return nil // reasoning and the like mean nothing here
}

// shellOutput reads what commands of the API's own shell tool have printed.
func shellOutput(raw json.RawMessage) (string, error) {
	var outs []struct{ Stdout, Stderr string }
	if err := json.Unmarshal(raw, &outs); err != nil {
		return "", fmt.Errorf("output of a shell call: %w", err)
	}
	var b strings.Builder
	for _, o := range outs {
		b.WriteString(o.Stdout + o.Stderr)
	}
	return b.String(), nil
}

func (responses) write(w http.ResponseWriter, c conversation, t turn) {
	if c.stream {
		streamResponses(w, c, t)
		return
	}
	writeJSON(w, http.StatusOK, responsesAnswer(c, t, "completed", responsesOutput(t)))
}

func responsesAnswer(c conversation, t turn, status string, output []object) object {
	return object{"id": "resp_" + t.id, "object": "response", "created_at": epoch, "status": status, "model": c.model,
		"output": output, "error": nil, "incomplete_details": nil, "instructions": nil, "metadata": object{},
		"parallel_tool_calls": true, "tool_choice": "auto", "tools": []object{}, "temperature": 1, "top_p": 1,
		"usage": object{"input_tokens": 10, "input_tokens_details": object{"cached_tokens": 0}, "output_tokens": 5,
			"output_tokens_details": object{"reasoning_tokens": 0}, "total_tokens": 15}}
}

// responsesOutput is the items of a turn, whole.
func responsesOutput(t turn) []object {
	list := []object{}
	if t.text != "" {
		list = append(list, object{"id": "msg_" + t.id, "type": "message", "role": "assistant", "status": "completed",
			"content": []object{responsesText(t.text)}})
	}
	for _, m := range t.calls {
		list = append(list, responsesCall(m))
	}
	return list
}

func responsesText(text string) object {
	return object{"type": "output_text", "text": text, "annotations": []object{}, "logprobs": []object{}}
}

func responsesCall(m made) object {
	o := object{"id": "fc_" + m.id, "call_id": m.id, "status": "completed"}
	switch m.tool.kind {
	case "function":
		o["type"], o["name"], o["arguments"] = "function_call", m.tool.name, string(m.args)
	case "custom":
		o["type"], o["name"], o["input"] = "custom_tool_call", m.tool.name, string(m.args)
	case "shell", "local_shell":
		o["type"], o["action"] = m.tool.kind+"_call", json.RawMessage(m.args)
	default:
		o["type"], o["operation"] = m.tool.kind+"_call", json.RawMessage(m.args)
	}
	return o
}

func streamResponses(w http.ResponseWriter, c conversation, t turn) {
	s := newStream(w)
	send := func(kind string, o object) {
		o["type"], o["sequence_number"] = kind, s.n
		s.send(kind, o)
	}
	started := responsesAnswer(c, t, "in_progress", []object{})
	started["usage"] = nil
	send("response.created", object{"response": started})
	send("response.in_progress", object{"response": started})
	output := responsesOutput(t)
	for n, o := range output {
		streamItem(send, n, o)
	}
	send("response.completed", object{"response": responsesAnswer(c, t, "completed", output)})
}

// streamItem sends an item: its beginning without what grows, the growth, the whole.
func streamItem(send func(kind string, o object), n int, whole object) {
	begun := object{}
	for k, v := range whole {
		begun[k] = v
	}
	begun["status"] = "in_progress"
	at := func(more object) object {
		more["item_id"], more["output_index"] = whole["id"], n
		return more
	}
	grow := func(kind, key string) {
		begun[key] = ""
		send("response.output_item.added", object{"output_index": n, "item": begun})
		for _, p := range pieces(whole[key].(string)) {
			send(kind+".delta", at(object{"delta": p}))
		}
		send(kind+".done", at(object{key: whole[key], "name": whole["name"]}))
	}
	switch whole["type"] {
	case "message":
		begun["content"] = []object{}
		send("response.output_item.added", object{"output_index": n, "item": begun})
		streamText(send, at, whole["content"].([]object)[0])
	case "function_call":
		grow("response.function_call_arguments", "arguments")
	case "custom_tool_call":
		grow("response.custom_tool_call_input", "input")
	default:
		send("response.output_item.added", object{"output_index": n, "item": begun})
	}
	send("response.output_item.done", object{"output_index": n, "item": whole})
}

func streamText(send func(kind string, o object), at func(object) object, part object) {
	text := part["text"].(string)
	send("response.content_part.added", at(object{"content_index": 0, "part": responsesText("")}))
	for _, p := range pieces(text) {
		send("response.output_text.delta", at(object{"content_index": 0, "delta": p, "logprobs": []object{}}))
	}
	send("response.output_text.done", at(object{"content_index": 0, "text": text, "logprobs": []object{}}))
	send("response.content_part.done", at(object{"content_index": 0, "part": part}))
}
