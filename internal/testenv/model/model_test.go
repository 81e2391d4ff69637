package model

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// client speaks one API as plainly as can be: it runs the tool "mcp__box__run" in
// a loop until the model has said something.
type client struct {
	path  string
	body  func(history []any, stream bool) any
	whole func(answer map[string]any) (text, id, args string, history []any)
	piece func(name string, event map[string]any) (text, id, args string)
	reply func(id, output string) any
}

var schema = object{"type": "object", "properties": object{"command": object{"type": "string"}}, "required": []string{"command"}}

var clients = map[string]client{
	"chat": {
		path: "/v1/chat/completions",
		body: func(h []any, stream bool) any {
			return object{"model": "any", "stream": stream, "messages": append([]any{object{"role": "user", "content": "go"}}, h...),
				"tools": []any{object{"type": "function", "function": object{"name": "mcp__box__run", "parameters": schema}}}}
		},
		whole: func(a map[string]any) (text, id, args string, h []any) {
			m := dig(a, "choices", 0, "message").(map[string]any)
			if calls, ok := m["tool_calls"]; ok {
				return "", dig(calls, 0, "id").(string), dig(calls, 0, "function", "arguments").(string), []any{m}
			}
			return m["content"].(string), "", "", []any{m}
		},
		piece: func(_ string, e map[string]any) (text, id, args string) {
			d := dig(e, "choices", 0, "delta").(map[string]any)
			if calls, ok := d["tool_calls"]; ok {
				id, _ = dig(calls, 0).(map[string]any)["id"].(string)
				return "", id, dig(calls, 0, "function", "arguments").(string)
			}
			text, _ = d["content"].(string)
			return text, "", ""
		},
		reply: func(id, output string) any { return object{"role": "tool", "tool_call_id": id, "content": output} },
	},
	"responses": {
		path: "/v1/responses",
		body: func(h []any, stream bool) any {
			return object{"model": "any", "stream": stream, "input": append([]any{object{"role": "user", "content": "go"}}, h...),
				"tools": []any{object{"type": "function", "name": "mcp__box__run", "parameters": schema}}}
		},
		whole: func(a map[string]any) (text, id, args string, h []any) {
			o := dig(a, "output", 0).(map[string]any)
			if o["type"] == "function_call" {
				return "", o["call_id"].(string), o["arguments"].(string), []any{o}
			}
			return dig(o, "content", 0, "text").(string), "", "", []any{o}
		},
		piece: func(name string, e map[string]any) (text, id, args string) {
			switch name {
			case "response.output_text.delta":
				return e["delta"].(string), "", ""
			case "response.function_call_arguments.delta":
				return "", "", e["delta"].(string)
			case "response.output_item.done":
				id, _ = dig(e, "item").(map[string]any)["call_id"].(string)
			}
			return "", id, ""
		},
		reply: func(id, output string) any {
			return object{"type": "function_call_output", "call_id": id, "output": output}
		},
	},
	"messages": {
		path: "/v1/messages",
		body: func(h []any, stream bool) any {
			return object{"model": "any", "stream": stream, "max_tokens": 100, "messages": append([]any{object{"role": "user", "content": "go"}}, h...),
				"tools": []any{object{"name": "mcp__box__run", "input_schema": schema}}}
		},
		whole: func(a map[string]any) (text, id, args string, h []any) {
			b := dig(a, "content", 0).(map[string]any)
			h = []any{object{"role": "assistant", "content": a["content"]}}
			if b["type"] == "tool_use" {
				args, _ := json.Marshal(b["input"])
				return "", b["id"].(string), string(args), h
			}
			return b["text"].(string), "", "", h
		},
		piece: func(name string, e map[string]any) (text, id, args string) {
			switch name {
			case "content_block_start":
				id, _ = dig(e, "content_block").(map[string]any)["id"].(string)
			case "content_block_delta":
				text, _ = dig(e, "delta").(map[string]any)["text"].(string)
				args, _ = dig(e, "delta").(map[string]any)["partial_json"].(string)
			}
			return text, id, args
		},
		reply: func(id, output string) any {
			return object{"role": "user", "content": []any{object{"type": "tool_result", "tool_use_id": id, "content": output}}}
		},
	},
}

func dig(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			v = v.(map[string]any)[p]
		case int:
			list := v.([]any)
			if p >= len(list) {
				return map[string]any{"delta": map[string]any{}}
			}
			v = list[p]
		}
	}
	return v
}

func script() *Model {
	return New(Use("run", object{"command": "echo 'ä\n'"}),
		UseFrom("run", func(results []string) any { return object{"command": "again " + results[0]} }),
		Say("It said "+Result+"."), Use("run", object{"command": "more"}), Say("Done: "+Result))
}

// TestConversations has one conversation over each API, whole and streamed, of two
// turns of the user.
func TestConversations(t *testing.T) {
	for name, c := range clients {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s stream=%v", name, stream), func(t *testing.T) {
				m := script()
				srv := httptest.NewServer(m)
				defer srv.Close()
				var history []any
				var ran []string
				said := []string{}
				for range 5 {
					text, id, args, more := c.ask(t, srv.URL, history, stream)
					history = append(history, more...)
					if id == "" {
						said = append(said, text)
						continue
					}
					ran = append(ran, args)
					history = append(history, c.reply(id, fmt.Sprintf("out %d", len(ran))))
				}
				if want := `{"command":"echo 'ä\n'"} {"command":"again out 1"} {"command":"more"}`; strings.Join(ran, " ") != want {
					t.Errorf("ran %s, want %s", strings.Join(ran, " "), want)
				}
				if want := "It said out 2.|Done: out 3"; strings.Join(said, "|") != want {
					t.Errorf("said %q, want %q", said, want)
				}
				if err := m.Err(); err != nil {
					t.Error(err)
				}
				last := m.Requests()[len(m.Requests())-1]
				if last.Stream != stream || strings.Join(last.Results, " ") != "out 1 out 2 out 3" || last.Tools[0] != "mcp__box__run" {
					t.Errorf("the last request is recorded as %v %q %q", last.Stream, last.Results, last.Tools)
				}
			})
		}
	}
}

// ask asks once. What a stream gives piece by piece must be what comes whole.
func (c client) ask(t *testing.T, url string, history []any, stream bool) (text, id, args string, more []any) {
	t.Helper()
	var answer map[string]any
	if err := json.Unmarshal(post(t, url+c.path, c.body(history, false), http.StatusOK), &answer); err != nil {
		t.Fatal(err)
	}
	text, id, args, more = c.whole(answer)
	if !stream {
		return text, id, args, more
	}
	var stext, sid, sargs string
	events := bufio.NewScanner(bytes.NewReader(post(t, url+c.path, c.body(history, true), http.StatusOK)))
	name := ""
	for events.Scan() {
		line := events.Text()
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = n
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatal(err)
		}
		a, b, d := c.piece(name, e)
		stext, sid, sargs = stext+a, sid+b, sargs+d
	}
	if stext != text || sid != id || sargs != args {
		t.Fatalf("streamed %q %q %q, whole %q %q %q", stext, sid, sargs, text, id, args)
	}
	return text, id, args, more
}

func post(t *testing.T, url string, body any, want int) []byte {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	q, err := http.NewRequest("POST", url, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer k")
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	got, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != want {
		t.Fatalf("status %d, %v: %s", a.StatusCode, err, got)
	}
	return got
}

// TestRefusals shows that the model finds what is wrong.
func TestRefusals(t *testing.T) {
	user := object{"role": "user", "content": "x"}
	run := object{"type": "function", "function": object{"name": "run", "parameters": schema}}
	for name, tt := range map[string]struct {
		step Step
		key  string
		body object
		want int
		text string
	}{
		"no messages":    {Say("x"), "", object{"model": "m"}, 400, "needed"},
		"wrong key":      {Say("x"), "other", object{"model": "m", "messages": []any{user}}, 401, "key"},
		"no such tool":   {Use("fly", nil), "", object{"model": "m", "messages": []any{user}, "tools": []any{run}}, 400, "0 offered tools"},
		"offered twice":  {Say("x"), "", object{"model": "m", "messages": []any{user}, "tools": []any{run, run}}, 400, "twice"},
		"missing":        {Use("run", nil), "", object{"model": "m", "messages": []any{user}, "tools": []any{run}}, 400, `needs "command"`},
		"unknown":        {Use("run", object{"command": "", "x": 1}), "", object{"model": "m", "messages": []any{user}, "tools": []any{run}}, 400, `no "x"`},
		"stray result":   {Say("x"), "", object{"model": "m", "messages": []any{user, object{"role": "tool", "tool_call_id": "call_0_0", "content": ""}}}, 400, "no open call"},
		"no more script": {Say("x"), "", object{"model": "m", "messages": []any{user, object{"role": "assistant", "content": "x"}, user}}, 400, "one more"},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(tt.step)
			m.Key = tt.key
			srv := httptest.NewServer(m)
			defer srv.Close()
			post(t, srv.URL+"/v1/chat/completions", tt.body, tt.want)
			if err := m.Err(); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %q", err, tt.text)
			}
		})
	}
}
